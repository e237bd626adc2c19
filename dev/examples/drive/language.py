"""The drive language: a scene is ten words, a move of the ego three.

    <to:2><speed:24>                         controls: where to, a lane or the exit, and how fast
    <lane:1:22><exit:no>                     the ego's lane and speed, and how far the exit is
    <31.2m+1.5> <none> <edge> ...            six neighbours: in front and behind, in the lane to the right, its own, to the left:
                                             gap in metres and how much faster it is; nobody in sight; no such lane
    <brake><because:lead><20.5m:0>           what to do, why, and the metres that the car goes ahead in that second and lanes to
                                             the side: from these words alone its way is read back

The language has as many words as it is given room for (vocabulary size V, up to 500,000): cells of gap by difference in speed
take all that the other words leave. Words get their ids in the order of use, so that those no log has come last: a model has
rows for them and spends no time on them.
"""
import json
import math
import os
import re

from simulator import BRAKES, LANES, RANGE, SPEEDS, TOP_SPEED

MOVES = 4                   # of a future: so many seconds
WORDS_OF_A_MOVE = 3
DECISIONS = ("keep", "left", "right", "brake")
REASONS = ("clear", "lead", "goal", "gap")
FASTEST = 14.0              # difference in speed, where cells end
END = "<|endoftext|>"


def move_word(metres, side):
    return "<%.1fm:%+d>" % (metres, side) if side else "<%.1fm:0>" % metres


def fixed_words():
    words = [END]
    words += ["<to:%s>" % to for to in list(range(LANES)) + ["exit"]] + ["<speed:%d>" % v for v in SPEEDS]
    words += ["<lane:%d:%d>" % (lane, v) for lane in range(LANES) for v in range(TOP_SPEED + 1)]
    words += ["<exit:%d>" % d for d in range(0, 500, 20)] + ["<exit:no>", "<none>", "<edge>"]
    words += ["<%s>" % d for d in DECISIONS] + ["<because:%s>" % r for r in REASONS]
    return words + [move_word(half / 2, side) for half in range(2 * TOP_SPEED + 1) for side in (0, 1, -1)]


class Language:
    """neighbours: the cells (gap, difference in speed) that have ids, in their order; a dict, empty at first."""

    def __init__(self, size, neighbours=None):
        self.size, self.fixed = size, fixed_words()
        room = size - len(self.fixed)
        if room < 50 or size > 500000:
            raise SystemExit("--vocab-size %d: from %d to 500000" % (size, len(self.fixed) + 50))
        self.speeds = int(math.sqrt(room / 2)) // 2 * 2 - 1  # odd: one cell is "as fast"
        self.gaps = room // self.speeds
        self.known = dict(neighbours or {})
        self.grows = neighbours is None
        self.nearest = {}

    # Gaps in cells that are narrower where they are short: the square root of the gap is cut evenly.
    def cell(self, gap, dv):
        i = min(self.gaps - 1, int(self.gaps * math.sqrt(max(0.0, gap) / RANGE)))
        j = int((min(FASTEST, max(-FASTEST, dv)) / FASTEST + 1) / 2 * self.speeds)
        return i, min(self.speeds - 1, j)

    def cell_word(self, cell):
        gap, dv = RANGE * ((cell[0] + 0.5) / self.gaps) ** 2, FASTEST * (2 * (cell[1] + 0.5) / self.speeds - 1)
        return "<%.4gm%+.4g>" % (gap, dv + 0.0)

    def neighbour(self, gap, dv):
        cell = self.cell(gap, dv)
        if self.grows:
            self.known[cell] = True
        elif cell not in self.known:  # no log has it: the nearest one that a log has
            if cell not in self.nearest:
                self.nearest[cell] = min(self.known, key=lambda c: ((c[0] - cell[0]) ** 2 + (c[1] - cell[1]) ** 2, c))
            cell = self.nearest[cell]
        return self.cell_word(cell)

    def words_in_use(self):
        return self.fixed + [self.cell_word(cell) for cell in self.known]

    # ---- a scene, and what follows ----

    def prompt(self, s):
        ego = s.ego
        words = ["<to:%s>" % s.to, "<speed:%d>" % s.speed, "<lane:%d:%d>" % (ego.lane, ego.v)]
        words.append("<exit:no>" if s.exit is None else "<exit:%d>" % (max(0, min(480, (s.exit - ego.x) // 20 * 20))))
        for lane in (ego.lane - 1, ego.lane, ego.lane + 1):
            for ahead in (True, False):
                if not 0 <= lane < LANES:
                    words.append("<edge>")
                    continue
                gap, car = s.beside(lane, ahead)
                words.append("<none>" if car is None else self.neighbour(gap, car.v - ego.v))
        return "".join(words)

    @staticmethod
    def move(v, decision, reason, dv, side):
        """The words of what a driver decided at a speed v."""
        after = min(TOP_SPEED, max(0, v + min(BRAKES[1], max(BRAKES[0], dv))))
        return "<%s><because:%s>%s" % (decision, reason, move_word((v + after) / 2, side))

    @staticmethod
    def read(text, v):
        """[(decision, reason, dv, side), ...] of a car that begins at speed v; ends where the words make no sense."""
        words, moves = re.findall(r"<([^<>]*)>", text), []
        for i in range(0, len(words) - 2, WORDS_OF_A_MOVE):
            decision, because, way = words[i:i + 3]
            found = re.fullmatch(r"([0-9.]+)m:([-+0-9]+)", way)
            if decision not in DECISIONS or not because.startswith("because:") or not found:
                break
            after = round(2 * float(found[1]) - v)
            dv = min(BRAKES[1], max(BRAKES[0], after - v))
            moves.append((decision, because[8:], dv, int(found[2])))
            v = min(TOP_SPEED, max(0, v + dv))
        return moves

    # ---- files ----

    def save(self, directory):
        os.makedirs(directory, exist_ok=True)
        words = self.words_in_use()
        added = [{"id": i, "content": word, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False,
                  "special": word == END} for i, word in enumerate(words)]
        model = {"type": "BPE", "vocab": {word: i for i, word in enumerate(words)}, "merges": []}
        with open(directory + "/tokenizer.json", "w") as f:
            json.dump({"version": "1.0", "added_tokens": added, "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False},
                       "decoder": {"type": "ByteLevel"}, "model": model}, f)
        with open(directory + "/language.json", "w") as f:
            json.dump({"size": self.size, "neighbours": list(self.known)}, f)

    @staticmethod
    def load(directory):
        with open(directory + "/language.json") as f:
            j = json.load(f)
        return Language(j["size"], {tuple(cell): True for cell in j["neighbours"]})


def trajectory(moves, v, lane):
    """[(metres ahead, lane), ...] after each second, as language.py's words say it and nobody in the way."""
    way, x = [], 0.0
    for _, _, dv, side in moves:
        after = min(TOP_SPEED, max(0, v + dv))
        x, v, lane = x + (v + after) / 2, after, min(LANES - 1, max(0, lane + side))
        way.append((x, lane))
    return way
