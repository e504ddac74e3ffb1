"""The first tables: hypervisors, VMs, enrolment tokens."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Bring the catalog up to this revision."""
    op.create_table(
        "hypervisor",
        sa.Column("name", sa.String(80), primary_key=True),
        sa.Column("kind", sa.String(40), nullable=False),
        sa.Column("url", sa.String(1000), nullable=False),
        sa.Column("created", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "vm",
        sa.Column("id", sa.String(32), primary_key=True),
        sa.Column("name", sa.String(80), nullable=False, unique=True),
        sa.Column("hypervisor", sa.String(80), nullable=False),
        sa.Column("ref", sa.String(200), nullable=False),
        sa.Column("journal", sa.String(4096), nullable=False),
        sa.Column("instance", sa.String(200)),
        sa.Column("protected", sa.Boolean, nullable=False),
        sa.Column("spec", sa.JSON),
        sa.Column("created", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "enrolment",
        sa.Column("digest", sa.String(64), primary_key=True),
        sa.Column("vm", sa.String(32), sa.ForeignKey("vm.id", ondelete="CASCADE"), nullable=False),
        sa.Column("expires", sa.BigInteger, nullable=False),
        sa.Column("redeemed", sa.BigInteger),
    )


def downgrade() -> None:
    """Go back to the revision before."""
    for table in ("enrolment", "vm", "hypervisor"):
        op.drop_table(table)
