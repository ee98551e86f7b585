"""What a history of clients may not show, after the rules of Jepsen's tests of Kafka. Pure: events in, violations out.

Events are what clients.py describes. Records are named by their producer and its number of them, so that the checker knows
every one again wherever it is seen.

    lost            acknowledged, and a new reader does not find it, or finds it elsewhere
    duplicate       one record of an idempotent producer at two offsets
    inconsistent    one offset with two values, among all acknowledgements and all reads
    phantom         read, and never sent, or sent to another partition
    reordered       records of one producer in another order than they were sent in
    backwards       a reader's next record is not behind the one before
    skipped         a reader's next record is not the next one that there is
    uncommitted     a new owner begins before an offset whose commit was answered
    unread          a group has never read a record that it passed
    hole            offsets between the bounds where a new reader finds nothing
    fatal           an idempotent producer was told that it can not go on
    refused         a record was given up by a producer that waits longer than any fault lasts
    stuck           no progress although everything had healed
    error           what no reader may be told

A producer that gave up a record is not held to order and uniqueness: the library begins a new epoch and sends what it still
has once more, under new numbers, not knowing what was written. Nothing of what was acknowledged to it may be lost.
"""

import collections

Violation = collections.namedtuple("Violation", "kind text")

# Of one kind; more are counted only.
SHOWN = 20


def check(events):
    """Violations, in no special order. The events are in the order in which they were seen."""
    checker = Checker()
    for event in events:
        checker.see(event)
    return checker.end()


class Checker:
    def __init__(self):
        self.violations = []
        self.sent = {}       # (p, n): tp
        self.acked = {}      # (p, n): (tp, o)
        self.values = {}     # (tp, o): (p, n)
        self.places = {}     # (p, n): (tp, o), by readers
        self.positions = {}  # (c, tp): last offset read since the assignment; None for nothing yet
        self.begins = {}     # (c, tp): offset that the group had committed when it was assigned
        self.twice = []      # (record, place, tp, offset, who): seen again elsewhere
        self.gaps = []       # (c, tp, after, before): offsets that a reader passed over
        self.committed = {}  # (g, tp): highest offset whose commit was answered
        self.read = collections.defaultdict(set)  # (g, tp): offsets
        self.final = collections.defaultdict(dict)  # tp: {o: (p, n)}
        self.ends = None
        self.gave_up = set()  # producers

    def found(self, kind, text):
        self.violations.append(Violation(kind, text))

    def see(self, event):
        handler = getattr(self, "see_" + event["e"], None)
        if handler is not None:
            handler(event)

    # -- producers

    def see_sent(self, event):
        self.sent[event["p"], event["n"]] = event["tp"]

    def see_acked(self, event):
        record, tp, offset = (event["p"], event["n"]), event["tp"], event["o"]
        self.acked[record] = (tp, offset)
        if offset >= 0:
            self.value(tp, offset, record, "acknowledged")

    def see_gave_up(self, event):
        self.gave_up.add(event["p"])
        if event["patient"]:
            self.found("refused", f"{event['p']}:{event['n']} to {event['tp']}: {event['why']}")

    def see_fatal(self, event):
        self.found("fatal", f"{event['p']}: {event['why']}")

    # -- readers

    def value(self, tp, offset, record, how):
        known = self.values.setdefault((tp, offset), record)
        if known != record:
            self.found("inconsistent", f"{tp} at {offset}: {name(known)}, and {name(record)} {how}")

    def place(self, tp, offset, record, who):
        self.value(tp, offset, record, f"read by {who}")
        if self.sent.get(record) != tp:
            self.found("phantom", f"{who} read {name(record)} from {tp} at {offset}; it was sent to {self.sent.get(record)}")
        known = self.places.setdefault(record, (tp, offset))
        if known != (tp, offset):
            self.twice.append((record, known, tp, offset, who))

    def duplicates(self):
        for record, known, tp, offset, who in self.twice:
            if record[0] in self.gave_up:
                continue
            self.found("duplicate", f"{name(record)} is in {known[0]} at {known[1]} and in {tp} at {offset} (read by {who})")

    def see_assigned(self, event):
        for tp in event["tps"]:
            self.positions[event["c"], tp] = None
            self.begins[event["c"], tp] = self.committed.get((event["g"], tp), 0) if event["g"] else 0

    def see_revoked(self, event):
        for tp in event["tps"]:
            self.positions.pop((event["c"], tp), None)

    def see_polled(self, event):
        who, group = event["c"], event["g"]
        for tp, offset, producer, n in event["r"]:
            self.place(tp, offset, (producer, n), who)
            self.read[group or who, tp].add(offset)
            before = self.positions.get((who, tp))
            if before is None:
                begin = self.begins.get((who, tp), 0)
                if offset < begin:
                    self.found("uncommitted", f"{who} begins {tp} at {offset}; the commit of {begin} was answered before it began")
                if group is None and offset > begin:
                    self.gaps.append((who, tp, begin - 1, offset))
            elif offset <= before:
                self.found("backwards", f"{who} read {tp} at {offset} after {before}")
            elif offset > before + 1:
                self.gaps.append((who, tp, before, offset))
            self.positions[who, tp] = offset

    def see_committed(self, event):
        if event["ok"]:
            for tp, offset in event["tps"].items():
                self.committed[event["g"], tp] = max(offset, self.committed.get((event["g"], tp), 0))

    def see_error(self, event):
        self.found("error", f"{event['c']}: {event['why']}")

    def see_stuck(self, event):
        self.found("stuck", f"{event['who']}: {event['why']}")

    # -- the end

    def see_ends(self, event):
        self.ends = event["tps"]

    def see_final(self, event):
        for tp, offset, producer, n in event["r"]:
            self.place(tp, offset, (producer, n), "the final reader")
            self.final[tp][offset] = (producer, n)

    def end(self):
        self.duplicates()
        # Passed over is only what there is: a reader may not know of a hole that is none of its making.
        for who, tp, after, before in self.gaps:
            missed = [offset for offset in range(after + 1, before) if (tp, offset) in self.values]
            if missed:
                self.found("skipped", f"{who} read {tp} at {before} after {after}; {name(self.values[tp, missed[0]])} is at {missed[0]}")
        if self.ends is not None:
            self.end_of_logs()
        return self.violations

    def end_of_logs(self):
        for record, (tp, offset) in self.acked.items():
            if offset >= 0:
                there = self.final[tp].get(offset)
                if there != record:
                    self.found("lost", f"{name(record)} was acknowledged in {tp} at {offset}; there is {name(there)}")
            elif record not in self.places:
                self.found("lost", f"{name(record)} was acknowledged in {tp}; it is nowhere")
        for tp, (low, high) in self.ends.items():
            holes = [offset for offset in range(low, high) if offset not in self.final[tp]]
            if holes:
                self.found("hole", f"{tp} from {low} to {high}: nothing at {holes[0]} and {len(holes) - 1} more")
            newest = {}
            for offset in sorted(self.final[tp]):
                producer, n = self.final[tp][offset]
                if n < newest.get(producer, -1) and producer not in self.gave_up:
                    self.found("reordered", f"{tp} at {offset}: {name((producer, n))} comes after {newest[producer]}")
                newest[producer] = max(n, newest.get(producer, -1))
        for group, tp in list(self.read):
            passed = max(self.read[group, tp])
            unread = [offset for offset in self.final[tp] if offset <= passed and offset not in self.read[group, tp]]
            if unread:
                self.found("unread", f"{group} read {tp} up to {passed} and never {min(unread)} ({len(unread)} in all)")


def name(record):
    return "nothing" if record is None else f"{record[0]}:{record[1]}"


def report(violations):
    """Lines for people: kinds with counts, the first of each."""
    kinds = collections.Counter(violation.kind for violation in violations)
    lines = []
    for kind, count in kinds.items():
        lines.append(f"{kind}: {count}")
        lines += [f"    {violation.text}" for violation in violations if violation.kind == kind][:SHOWN]
    return "\n".join(lines)
