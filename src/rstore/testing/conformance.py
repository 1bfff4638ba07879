"""All suites in one."""

from __future__ import annotations

from rstore.testing.applying import ApplyingSuite
from rstore.testing.asking import AskingSuite
from rstore.testing.atomic import AtomicSuite
from rstore.testing.belonging import BelongingSuite
from rstore.testing.bulk import BulkSuite
from rstore.testing.care import CareSuite
from rstore.testing.changing import ChangingSuite
from rstore.testing.columns import ColumnSuite
from rstore.testing.copying import CopyingSuite
from rstore.testing.encryption import EncryptionSuite
from rstore.testing.entries import EntrySuite
from rstore.testing.events import EventSuite
from rstore.testing.expiry import ExpirySuite
from rstore.testing.finding import FindingSuite
from rstore.testing.following import FollowingSuite
from rstore.testing.guarding import GuardingSuite
from rstore.testing.hardships import HardshipSuite
from rstore.testing.history import HistorySuite
from rstore.testing.ids import IdSuite
from rstore.testing.loading import LoadingSuite
from rstore.testing.mapping import MappingSuite
from rstore.testing.namespaces import NamespaceSuite
from rstore.testing.noting import NotingSuite
from rstore.testing.opening import ClassAttributeSuite, OpeningSuite
from rstore.testing.operating import OperatingSuite
from rstore.testing.projecting import ProjectingSuite
from rstore.testing.proving import ProvingSuite
from rstore.testing.pruning import PruningSuite
from rstore.testing.questions import QuestionSuite
from rstore.testing.racing import RacingSuite
from rstore.testing.retention import RetentionSuite
from rstore.testing.series import SeriesSuite
from rstore.testing.sharing import SharingSuite
from rstore.testing.snapshots import SnapshotSuite
from rstore.testing.transactions import TransactionSuite
from rstore.testing.upcasting import UpcastingSuite
from rstore.testing.watching import WatchingSuite


class StoreSuite(
    OpeningSuite,
    ClassAttributeSuite,
    NamespaceSuite,
    MappingSuite,
    CopyingSuite,
    FindingSuite,
    EntrySuite,
    AtomicSuite,
    ExpirySuite,
    RacingSuite,
    SeriesSuite,
    ColumnSuite,
    QuestionSuite,
    BulkSuite,
    EventSuite,
    ApplyingSuite,
    NotingSuite,
    HistorySuite,
    IdSuite,
    AskingSuite,
    PruningSuite,
    UpcastingSuite,
    HardshipSuite,
    ChangingSuite,
    LoadingSuite,
    RetentionSuite,
    ProvingSuite,
    EncryptionSuite,
    GuardingSuite,
    SharingSuite,
    TransactionSuite,
    BelongingSuite,
    SnapshotSuite,
    CareSuite,
    OperatingSuite,
    WatchingSuite,
    FollowingSuite,
    ProjectingSuite,
):
    """All that a store promises, as tests. A subclass names the DSN, and the abilities that its backend lacks."""
