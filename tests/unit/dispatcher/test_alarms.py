"""What admins are told of: more dead letters, and servers that refuse for what they lack."""

from __future__ import annotations

import pytest

from fakes.servers import store_server, write_fields
from touchstone.core.holds import hold_server
from touchstone.core.records.notes import Letters
from touchstone.dispatcher.alarms import QUEUES_AT_A_TIME, Alarms
from touchstone.services.troubles import Troubles
from touchstone_agent.protocol.errors import PermanentError, TransientError
from touchstone_agent.protocol.messages import Refusal, SlotClass


class FakeLetters:
    """Depths by queue; those looked at are remembered."""

    def __init__(self):
        self.depths = {}
        self.missing = set()
        self.looked_at = []

    def count(self, queue):
        self.looked_at.append(queue)
        if queue in self.missing:
            raise PermanentError(f"{queue}: NonExistentQueue")
        return self.depths.get(queue, 0)


class Mailbox:
    def __init__(self):
        self.mails = []
        self.is_down = False

    def __call__(self, subject, text):
        if self.is_down:
            raise TransientError("no mail server")
        self.mails.append((subject, text))


@pytest.fixture
def letters():
    return FakeLetters()


@pytest.fixture
def mailbox():
    return Mailbox()


@pytest.fixture
def troubles(clock):
    return Troubles(clock)


@pytest.fixture
def make_alarms(records, letters, settings, clock, troubles, mailbox):
    def make():
        return Alarms(
            records=records,
            letters=letters,
            settings=settings,
            clock=clock,
            troubles=troubles,
            warn=mailbox,
        )

    return make


@pytest.fixture
def alarms(make_alarms):
    return make_alarms()


@pytest.fixture
def rio(records):
    store_server(records, {"server": "rio", "env": "dev"})


def noted(records):
    return records.find_note(Letters).queues


@pytest.mark.usefixtures("rio")
def test_all_queues_of_the_environment_are_looked_at(alarms, letters, records):
    store_server(records, {"server": "other", "env": "prod"})

    alarms.look()

    assert letters.looked_at == ["evt-dev.fifo", "req-rio.fifo", "ctl-rio.fifo"]


@pytest.mark.usefixtures("rio")
def test_dead_letters_are_told_once_and_again_when_there_are_more(
    alarms, letters, mailbox, records
):
    letters.depths = {"evt-dev.fifo": 2}
    for _ in range(3):
        alarms.look()
    letters.depths["req-rio.fifo"] = 1
    alarms.look()

    assert [subject for subject, _ in mailbox.mails] == ["2 dead letters", "1 dead letter"]
    assert "evt-dev.fifo (2)" in mailbox.mails[0][1]
    assert noted(records) == {"evt-dev.fifo": 2, "req-rio.fifo": 1}


@pytest.mark.usefixtures("rio")
def test_a_queue_that_was_emptied_is_told_of_anew(alarms, letters, mailbox, records):
    letters.depths = {"evt-dev.fifo": 2}
    alarms.look()
    letters.depths = {}
    alarms.look()
    assert noted(records) == {}
    letters.depths = {"evt-dev.fifo": 1}
    alarms.look()

    assert len(mailbox.mails) == 2


def test_two_dispatchers_and_one_that_was_restarted_tell_once(make_alarms, letters, mailbox):
    letters.depths = {"evt-dev.fifo": 2}

    for alarms in (make_alarms(), make_alarms()):
        alarms.look()

    assert len(mailbox.mails) == 1


def test_what_could_not_be_told_is_told_the_next_time(alarms, letters, mailbox, records, troubles):
    letters.depths = {"evt-dev.fifo": 2}
    mailbox.is_down = True
    alarms.look()
    assert noted(records) == {"evt-dev.fifo": 2}, "it is shown all the same"
    assert [trouble.what for trouble in troubles.summarise()] == ["tell the admins of"]

    mailbox.is_down = False
    alarms.look()

    assert len(mailbox.mails) == 1
    assert troubles.summarise() == ()


@pytest.mark.usefixtures("rio")
def test_a_queue_without_dead_letters_of_its_own_hides_no_others(
    alarms, letters, mailbox, troubles
):
    letters.missing = {"evt-dev.fifo"}
    letters.depths = {"ctl-rio.fifo": 1}

    alarms.look()

    assert len(mailbox.mails) == 1
    assert [trouble.item for trouble in troubles.summarise()] == ["evt-dev.fifo"]


def test_many_servers_are_looked_at_in_turns(alarms, letters, records):
    for number in range(50):
        store_server(records, {"server": f"s{number:02}", "env": "dev"})

    alarms.look()
    assert len(letters.looked_at) == 1 + QUEUES_AT_A_TIME
    for _ in range(2):
        alarms.look()

    assert len(set(letters.looked_at)) == 101


def test_nothing_is_written_while_nothing_changes(alarms, letters, records):
    letters.depths = {"evt-dev.fifo": 1}
    alarms.look()
    before = records.find_note(Letters)
    for _ in range(3):
        alarms.look()

    assert records.find_note(Letters) == before


# --- servers that refuse ------------------------------------------------------------------------


def refuse(records, clock, refusal=Refusal.DISK, server="rio"):
    records.change_server(
        server,
        lambda found: hold_server(
            found,
            refusal=refusal,
            reason="disk: 10 MiB free",
            kind=SlotClass.TRAINING,
            image="trainer",
            now=clock(),
        ),
    )


@pytest.mark.usefixtures("rio")
@pytest.mark.parametrize("refusal", [Refusal.DISK, Refusal.IMAGE, Refusal.GPU])
def test_a_server_that_lacks_something_is_told_of_once(alarms, records, clock, mailbox, refusal):
    refuse(records, clock, refusal)
    alarms.look()
    clock.advance(hours=1)
    refuse(records, clock, refusal)
    alarms.look()

    ((subject, text),) = mailbox.mails
    assert subject == "server rio refuses: disk: 10 MiB free"
    assert "touchstone fleet attach rio" in text


@pytest.mark.usefixtures("rio")
@pytest.mark.parametrize("refusal", [Refusal.FULL, Refusal.DRAINED, None])
def test_a_server_that_was_only_full_is_nobodys_business(alarms, records, clock, mailbox, refusal):
    refuse(records, clock, refusal)

    alarms.look()

    assert mailbox.mails == []


@pytest.mark.usefixtures("rio")
def test_a_disk_that_is_just_full_again_and_again_is_no_mail_each_time(
    alarms, records, clock, mailbox
):
    for _ in range(5):
        refuse(records, clock)
        alarms.look()
        write_fields(records, "rio", {"holds": {}})
        clock.advance(minutes=5)
    assert len(mailbox.mails) == 1

    clock.advance(hours=6)
    refuse(records, clock)
    alarms.look()
    assert len(mailbox.mails) == 2


@pytest.mark.usefixtures("rio")
def test_a_server_whose_holds_make_no_sense_hides_no_other(alarms, records, clock, mailbox):
    store_server(records, {"server": "a-odd", "env": "dev", "holds": 7})
    refuse(records, clock)

    alarms.look()

    assert len(mailbox.mails) == 1


@pytest.mark.usefixtures("rio")
def test_the_dead_letters_of_a_server_whose_record_makes_no_sense_are_not_forgotten(
    alarms, letters, records, mailbox
):
    letters.depths = {"req-rio.fifo": 2}
    alarms.look()
    write_fields(records, "rio", {"declared": 7})

    alarms.look()

    assert noted(records) == {"req-rio.fifo": 2}
    assert len(mailbox.mails) == 1
