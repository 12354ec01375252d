"""What the Optuna dashboard shows of a study beyond Optuna's own pages: a note and our two figures."""

from collections.abc import Mapping, Sequence

import optuna
from optuna_dashboard import save_note, save_plotly_graph_object

from db.session import Database
from pruners.profile import Latency
from searchsvc.figures import front_figure, schedule_figure
from searchsvc.latencies import shown
from searchsvc.points import on_front
from searchsvc.report import thinned
from searchsvc.storage import optuna_storage
from searchsvc.subject import Subject
from studies.measured import Measured


def publish(
    database: Database, subject: Subject, points: Sequence[Measured], latencies: Mapping[str, Latency]
) -> None:
    """Write the study's note and figures; a second call overwrites them."""
    name = subject.spec.name
    study = optuna.load_study(study_name=name, storage=optuna_storage(database))
    front = on_front(points)
    save_note(study, note(subject, front, latencies))
    save_plotly_graph_object(study, front_figure(points, f"{name}: front"), graph_object_id="front")
    save_plotly_graph_object(
        study, schedule_figure(thinned(front), f"{name}: schedules"), graph_object_id="schedule"
    )


def note(subject: Subject, front: Sequence[Measured], latencies: Mapping[str, Latency]) -> str:
    """Return the note in Markdown: what was searched, on what, the front and its times, how to export."""
    spec = subject.spec
    table = "\n".join(
        f"| {p.number} | {p.method} | {p.label} | {p.accuracy:.4f} | {p.flops_ratio:.3f} | {p.kv_ratio:.3f} |"
        for p in front
    )
    if latencies:
        times = (f"- trial {p.number}: {shown(latencies[p.key])}" for p in front if p.key in latencies)
        table += "\n\n" + "\n".join(times)
    model = f"`{spec.model.id}` (sha256 {subject.model.fingerprint[:12]})"
    export = f"searchsvc profile export {spec.name} --max-drop {spec.goal.max_drop:g} -o profile.yaml"
    return f"""# {spec.name}

Method `{spec.search.method}` on model {model}, data `{spec.data.path}`,
{len(subject.search)} `search` samples, metric `{subject.search.metric}`, seed {spec.search.seed}.

| trial | method | schedule | accuracy | decoder FLOPs | KV cache |
|---|---|---|---|---|---|
{table}

FLOPs and KV cache are ratios to no pruning. Export with `{export}`.
"""
