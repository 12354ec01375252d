"""Samples apart from the evaluations that share them, an index of all that is counted of these.

The ids and token counts of 512 samples took four times the room of all that was measured on them. The trial
beside a study's evaluation was never known when it was linked: a trial names its evaluation's key.

Revision ID: 0004
"""

import hashlib
import json
import zlib
from collections.abc import Iterator
from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

LISTS = ("ids", "visual_tokens", "text_tokens")
#: evaluations that are rewritten at once
CHUNK = 500

SETS = sa.table(
    "ss_sample_sets",
    *(sa.column(name, sa.Integer) for name in ("id", "size")),
    sa.column("sha256", sa.String),
    *(sa.column(name, sa.LargeBinary) for name in LISTS),
)
EVALUATIONS = sa.table(
    "ss_evaluations",
    *(sa.column(name, sa.Integer) for name in ("id", "sample_set_id")),
    sa.column("cost", sa.JSON),
)
INDEXED = [
    *("model_id", "dataset_id", "split", "metric", "sample_set_id"),
    *("id", "seconds", "bytes", "created_at"),
]
PACKED, WRITTEN = ("scores", "divergences", "predictions"), ("pruning", "tokens_per_layer", "cost")
BYTES = " + ".join(
    f"coalesce(length({column}), 0)" for column in (*PACKED, *(f"CAST({name} AS TEXT)" for name in WRITTEN))
)
REFERENCE = "fk_ss_evaluations_sample_set_id"


def upgrade() -> None:
    op.create_table(
        "ss_sample_sets",
        sa.Column("id", sa.Integer, nullable=False),
        sa.Column("sha256", sa.String(64), nullable=False),
        sa.Column("size", sa.Integer, nullable=False),
        *(sa.Column(name, sa.LargeBinary, nullable=False) for name in LISTS),
        sa.PrimaryKeyConstraint("id", name="pk_ss_sample_sets"),
        sa.UniqueConstraint("sha256", name="uq_ss_sample_sets_sha256"),
    )
    with op.batch_alter_table("ss_evaluations") as table:
        table.add_column(sa.Column("sample_set_id", sa.Integer))
        table.add_column(sa.Column("bytes", sa.Integer, nullable=False, server_default="0"))
        table.create_foreign_key(REFERENCE, "ss_sample_sets", ["sample_set_id"], ["id"])
    known: dict[str, int] = {}
    for chunk in _chunks():
        for row in chunk:
            if all(name in row.cost for name in LISTS):
                number = _set_of(known, [row.cost.pop(name) for name in LISTS])
                _rewrite(row.id, cost=row.cost, sample_set_id=number)
    op.execute(f"UPDATE ss_evaluations SET bytes = {BYTES}")
    op.drop_index("ix_ss_evaluations_model_id_dataset_id", "ss_evaluations")
    op.create_index("ix_ss_evaluations_groups", "ss_evaluations", INDEXED)
    with op.batch_alter_table("ss_study_evaluations") as table:
        table.drop_column("trial")


def downgrade() -> None:
    with op.batch_alter_table("ss_study_evaluations") as table:
        table.add_column(sa.Column("trial", sa.Integer))
    sets = {
        row.id: {name: json.loads(zlib.decompress(getattr(row, name))) for name in LISTS}
        for row in op.get_bind().execute(sa.select(SETS))
    }
    for chunk in _chunks():
        for row in chunk:
            if row.sample_set_id is not None:
                _rewrite(row.id, cost=sets[row.sample_set_id] | row.cost)
    op.drop_index("ix_ss_evaluations_groups", "ss_evaluations")
    op.create_index("ix_ss_evaluations_model_id_dataset_id", "ss_evaluations", ["model_id", "dataset_id"])
    with op.batch_alter_table("ss_evaluations") as table:
        table.drop_constraint(REFERENCE, type_="foreignkey")
        table.drop_column("sample_set_id")
        table.drop_column("bytes")
    op.drop_table("ss_sample_sets")


def _chunks() -> Iterator[list[sa.Row[Any]]]:
    last = 0
    while True:
        chosen = sa.select(EVALUATIONS).where(EVALUATIONS.c.id > last).order_by(EVALUATIONS.c.id).limit(CHUNK)
        rows = list(op.get_bind().execute(chosen))
        if not rows:
            return
        yield rows
        last = rows[-1].id


def _set_of(known: dict[str, int], lists: list[list[Any]]) -> int:
    """Return the number of the set of these samples, made when it is new."""
    sha256 = hashlib.sha256(json.dumps(lists).encode()).hexdigest()
    if sha256 not in known:
        packed = {
            name: zlib.compress(json.dumps(one).encode()) for name, one in zip(LISTS, lists, strict=True)
        }
        new = sa.insert(SETS).values(sha256=sha256, size=len(lists[0]), **packed)
        known[sha256] = op.get_bind().execute(new.returning(SETS.c.id)).scalar_one()
    return known[sha256]


def _rewrite(number: int, **values: Any) -> None:
    op.get_bind().execute(sa.update(EVALUATIONS).where(EVALUATIONS.c.id == number).values(**values))
