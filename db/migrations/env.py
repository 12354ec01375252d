"""Run by Alembic: migrates our tables, and only ours, on the connection that `db.schema` hands over."""

from alembic import context

from db.models import Base
from db.schema import VERSION_TABLE, include_object

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Base.metadata,
    version_table=VERSION_TABLE,
    include_object=include_object,
    render_as_batch=True,
)
with context.begin_transaction():
    context.run_migrations()
