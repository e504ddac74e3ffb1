"""Runs the migrations on the connection, and in the transaction, that lastwrite.database has opened."""

from alembic import context

from lastwrite.catalog_tables import Base

context.configure(
    connection=context.config.attributes["connection"], target_metadata=Base.metadata, render_as_batch=True
)
context.run_migrations()
