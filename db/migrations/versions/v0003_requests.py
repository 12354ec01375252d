"""Priorities, requests to whoever runs a study, the state `paused`, and what a study came to.

Revision ID: 0003
"""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

BEFORE = "status IN ('queued', 'running', 'done', 'failed', 'cancelled')"
AFTER = "status IN ('queued', 'running', 'paused', 'done', 'failed', 'cancelled')"
REQUEST = "request IN ('pause', 'stop', 'cancel')"


def upgrade() -> None:
    with op.batch_alter_table("ss_studies") as table:
        table.add_column(sa.Column("priority", sa.Integer, nullable=False, server_default="0"))
        table.add_column(sa.Column("request", sa.String(16)))
        table.add_column(sa.Column("outcome", sa.JSON))
        table.drop_constraint(op.f("ck_ss_studies_status"), type_="check")
        table.create_check_constraint(op.f("ck_ss_studies_status"), AFTER)
        table.create_check_constraint(op.f("ck_ss_studies_request"), REQUEST)


def downgrade() -> None:
    op.execute("UPDATE ss_studies SET status = 'queued' WHERE status = 'paused'")
    with op.batch_alter_table("ss_studies") as table:
        table.drop_constraint(op.f("ck_ss_studies_request"), type_="check")
        table.drop_constraint(op.f("ck_ss_studies_status"), type_="check")
        table.create_check_constraint(op.f("ck_ss_studies_status"), BEFORE)
        for column in ("outcome", "request", "priority"):
            table.drop_column(column)
