"""Exported profiles as artifacts of their studies, the way Optuna knows them.

The profiles lie in our table already, so no folder has to be shared between those who export and those who
look: where the database can be reached, they are.
"""

import io
import json
from dataclasses import asdict
from typing import BinaryIO

from optuna.artifacts import ArtifactMeta
from optuna.artifacts.exceptions import ArtifactNotFound

from db.results import find_profile
from db.session import Database
from db.values import Profile
from searchsvc.storage import optuna_storage

#: what Optuna's own `upload_artifact` calls the attribute of a study that names an artifact
PREFIX = "artifacts:"


class ProfileArtifacts:
    """An Optuna `ArtifactStore` that holds the exported profiles, each under its sha256; it only reads."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def open_reader(self, artifact_id: str) -> BinaryIO:
        """Return a profile's text; ArtifactNotFound when there is none."""
        found = find_profile(self._database, artifact_id)
        if found is None:
            raise ArtifactNotFound(f"no profile has the sha256 {artifact_id}")
        return io.BytesIO(found.yaml.encode())

    def write(self, artifact_id: str, content_body: BinaryIO) -> None:  # noqa: ARG002
        """Refuse: an artifact is an exported profile, and comes to be with it (`attach`)."""
        raise PermissionError(f"{artifact_id}: only `searchsvc profile export` adds artifacts")

    def remove(self, artifact_id: str) -> None:
        """Leave the profile where it is: it is deleted with our study, not with Optuna's."""


def attach(database: Database, profile: Profile) -> None:
    """Make a stored profile an artifact of Optuna's study of the same name as its own."""
    if profile.study is None:
        return
    storage = optuna_storage(database)
    meta = ArtifactMeta(
        artifact_id=profile.sha256,
        filename=f"{profile.name}.yaml",
        mimetype="application/yaml",
        encoding=None,
    )
    study_id = storage.get_study_id_from_name(profile.study)
    storage.set_study_system_attr(study_id, PREFIX + profile.sha256, json.dumps(asdict(meta)))
