"""The checker finds each kind of violation, and finds none in a good history."""

import unittest

from checker import check, report

A, B = "t/0", "t/1"


def sent(*records, tp=A, p="p"):
    return [{"e": "sent", "p": p, "n": n, "tp": tp} for n in records]


def acked(n, offset, tp=A, p="p"):
    return {"e": "acked", "p": p, "n": n, "tp": tp, "o": offset}


def assigned(who, *tps, group="g"):
    return {"e": "assigned", "c": who, "g": group, "tps": list(tps)}


def polled(who, *records, tp=A, p="p", group="g"):
    """Records as (offset, n)."""
    return {"e": "polled", "c": who, "g": group, "r": [[tp, offset, p, n] for offset, n in records]}


def committed(offset, tp=A, ok=True, who="a"):
    return {"e": "committed", "c": who, "g": "g", "tps": {tp: offset}, "ok": ok}


def final(*records, tp=A, p="p", low=0, high=None):
    """What is there at the end, as (offset, n)."""
    high = high if high is not None else max((offset for offset, _ in records), default=low - 1) + 1
    return [{"e": "ends", "tps": {tp: [low, high]}}, {"e": "final", "r": [[tp, offset, p, n] for offset, n in records]}]


def kinds(*events):
    flat = [event for part in events for event in (part if isinstance(part, list) else [part])]
    return sorted({violation.kind for violation in check(flat)})


class Good(unittest.TestCase):
    def test_nothing_is_found_in_a_good_history(self):
        self.assertEqual(kinds(
            sent(0, 1, 2, 3), acked(0, 0), acked(1, 1), assigned("a", A), polled("a", (0, 0), (1, 1)), committed(2),
            {"e": "failed", "p": "p", "n": 3, "tp": A, "why": "timeout"}, acked(2, 2),
            {"e": "revoked", "c": "a", "g": "g", "tps": [A]}, assigned("b", A), polled("b", (2, 2)), polled("b", (3, 3)),
            assigned("tail", A, group=None), polled("tail", (0, 0), (1, 1), (2, 2), (3, 3), group=None),
            final((0, 0), (1, 1), (2, 2), (3, 3))), [])

    def test_what_was_not_acknowledged_may_be_there_or_not(self):
        self.assertEqual(kinds(sent(0, 1, 2), final((0, 1))), [])

    def test_a_new_owner_may_read_again_what_was_not_committed(self):
        self.assertEqual(kinds(sent(0, 1), assigned("a", A), polled("a", (0, 0), (1, 1)), committed(2, ok=False),
                               assigned("b", A), polled("b", (0, 0), (1, 1)), final((0, 0), (1, 1))), [])

    def test_an_acknowledgement_need_not_tell_the_offset(self):
        self.assertEqual(kinds(sent(0), acked(0, -1), final((0, 0))), [])

    def test_a_producer_that_gave_up_may_have_sent_again(self):
        gave_up = {"e": "gave_up", "p": "p", "n": 1, "tp": A, "why": "timeout", "patient": False}
        self.assertEqual(kinds(sent(0, 1, 2), final((0, 0), (1, 2), (2, 1), (3, 2)), gave_up), [])
        self.assertEqual(kinds(sent(0, 1), acked(0, 0), gave_up, final((0, 1))), ["inconsistent", "lost"])

    def test_a_log_may_begin_late(self):
        self.assertEqual(kinds(sent(0, 1), polled("a", (0, 0)), final((1, 1), low=1)), [])


class Bad(unittest.TestCase):
    def test_lost(self):
        self.assertEqual(kinds(sent(0, 1), acked(0, 0), acked(1, 1), final((0, 0))), ["lost"])
        self.assertEqual(kinds(sent(0), acked(0, -1), final()), ["lost"])
        self.assertEqual(kinds(sent(0, 1), acked(0, 0), acked(1, 1), final((0, 0), high=2)), ["hole", "lost"])

    def test_lost_by_another_in_its_place(self):
        self.assertEqual(kinds(sent(0, 1), acked(0, 0), final((0, 1))), ["inconsistent", "lost"])

    def test_duplicate(self):
        self.assertEqual(kinds(sent(0), acked(0, 0), final((0, 0), (1, 0))), ["duplicate"])
        self.assertEqual(kinds(sent(0), assigned("a", A), polled("a", (0, 0), (1, 0))), ["duplicate"])

    def test_inconsistent_between_readers(self):
        self.assertEqual(kinds(sent(0, 1), assigned("a", A), polled("a", (0, 0)), assigned("b", A), polled("b", (0, 1))), ["inconsistent"])

    def test_inconsistent_between_acknowledgements(self):
        self.assertEqual(kinds(sent(0, 1), acked(0, 5), acked(1, 5)), ["inconsistent"])

    def test_phantom(self):
        self.assertEqual(kinds(assigned("a", A), polled("a", (0, 7))), ["phantom"])
        self.assertEqual(kinds(sent(7, tp=B), assigned("a", A), polled("a", (0, 7))), ["phantom"])

    def test_reordered(self):
        self.assertEqual(kinds(sent(0, 1), final((0, 1), (1, 0))), ["reordered"])

    def test_backwards(self):
        self.assertEqual(kinds(sent(0, 1), assigned("a", A), polled("a", (0, 0), (1, 1)), polled("a", (1, 1))), ["backwards"])

    def test_skipped(self):
        self.assertEqual(kinds(sent(0, 1, 2), acked(1, 1), assigned("a", A), polled("a", (0, 0)), polled("a", (2, 2))), ["skipped"])

    def test_skipped_at_the_beginning(self):
        self.assertEqual(kinds(sent(0, 1), acked(0, 0), assigned("tail", A, group=None), polled("tail", (1, 1), group=None)), ["skipped"])

    def test_what_is_not_there_is_not_skipped(self):
        self.assertEqual(kinds(sent(0, 2), assigned("a", A), polled("a", (0, 0)), polled("a", (2, 2))), [])

    def test_uncommitted(self):
        self.assertEqual(kinds(sent(0, 1), assigned("a", A), polled("a", (0, 0), (1, 1)), committed(2),
                               assigned("b", A), polled("b", (1, 1))), ["uncommitted"])

    def test_unread(self):
        self.assertEqual(kinds(sent(0, 1, 2), assigned("a", A), polled("a", (0, 0)), assigned("b", A), polled("b", (2, 2)),
                               final((0, 0), (1, 1), (2, 2))), ["unread"])

    def test_hole(self):
        self.assertEqual(kinds(sent(0, 1), final((0, 0), (2, 1))), ["hole"])

    def test_what_was_said(self):
        self.assertEqual(kinds({"e": "fatal", "p": "p", "why": "sequence"}), ["fatal"])
        self.assertEqual(kinds({"e": "stuck", "who": "g", "why": "60 s"}), ["stuck"])
        self.assertEqual(kinds({"e": "error", "c": "a", "why": "out of range"}), ["error"])

    def test_refused(self):
        gave_up = {"e": "gave_up", "p": "p", "n": 0, "tp": A, "why": "timeout", "patient": True}
        self.assertEqual(kinds(sent(0), gave_up), ["refused"])

    def test_the_report_names_what_was_found(self):
        text = report(check(sent(0, 1) + [acked(0, 5), acked(1, 5)]))
        self.assertIn("inconsistent: 1", text)
        self.assertIn("p:0", text)


if __name__ == "__main__":
    unittest.main()
