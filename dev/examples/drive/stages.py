"""What stands between the program's commands: drives in closed loop, futures, pairs from take-overs, rewards, a picture.

    stages.py evaluate MODEL...    collisions per km, progress, obedience of MODEL (or: careful, mixed) over held-out scenes, closed
                                   loop, and the error of its trajectory beside the careful driver's
    stages.py futures MODEL        the futures of a scene, and the likeliest chain of decisions
    stages.py takeovers MODEL      pairs.jsonl, corrected.jsonl: the careful driver takes over where it would have done something else
    stages.py watch MODEL          MODEL drives on whatever it does; what the careful driver would have done is added to
                                   corrected.jsonl, and the scenes are prompts.jsonl for PPO, with all that the reward's simulator needs
    stages.py reward               the reward command: lines in, numbers out
    stages.py picture MODEL...     scenes.svg

All take --data DIR, what logs.py wrote. Models sample with ./train_gpt2 (TRAIN_GPT2), all scenes of a moment in one call.
"""
import argparse
import json
import math
import os
import random
import subprocess
import sys
import tempfile

from language import MOVES, WORDS_OF_A_MOVE, Language, trajectory
from logs import HELD_OUT
from picture import picture
from simulator import LANE_WIDTH, Careful, Mixed, Scene, make_scene, measures, obeyed, totals

TAKEOVERS, WATCHED = 2000000, 3000000  # first seeds


# ---- a model as a driver ----

def sample(model, prompts, *options):
    """For each prompt the samples' JSON objects."""
    with tempfile.NamedTemporaryFile("w", suffix=".jsonl", delete=False) as f:
        f.writelines(json.dumps({"prompt": p}) + "\n" for p in prompts)
    command = [os.environ.get("TRAIN_GPT2", "./train_gpt2"), "sample", "-e", model, "--prompt-file", f.name, "--json", *options]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    os.remove(f.name)
    if done.returncode != 0:
        raise SystemExit("failed: " + " ".join(command))
    samples = [json.loads(line) for line in done.stdout.splitlines()]
    n = len(samples) // len(prompts)
    return [samples[i * n:(i + 1) * n] for i in range(len(prompts))]


def likeliest(samples, v):
    """Of different futures the chains of decisions and reasons, by the probability of all that have them, highest first:
    [(probability, chain, [(probability, moves), ...]), ...]"""
    chains = {}
    for text, logp in {s["text"]: s["log_probability"] for s in samples}.items():
        moves = Language.read(text, v)
        chains.setdefault(tuple(m[:2] for m in moves), []).append((math.exp(logp), moves))
    return sorted(((sum(p for p, _ in f), chain, sorted(f, key=lambda e: -e[0])) for chain, f in chains.items()),
                  key=lambda e: -e[0])


KEEP = ("keep", "clear", 0, 0)  # where the words make no sense


def model_moves(model, language, scenes, seed, of, moves=1):
    """The next moves of each scene: one sample's, or the likeliest future of the likeliest chain of `of`."""
    options = ["--max-tokens", str(WORDS_OF_A_MOVE * moves), "--seed", str(seed), "--num-samples", str(of)]
    all_samples = sample(model, [language.prompt(s) for s in scenes], *options)
    return [likeliest(samples, s.ego.v)[0][2][0][1] or [KEEP] for s, samples in zip(scenes, all_samples)]


def closed_loop(scenes, decide):
    """Drives all scenes to their ends side by side; decide(live scenes, moment) gives a move for each. Returns their measures."""
    scenes = [s.copy() for s in scenes]
    begins, tops = [s.ego.x for s in scenes], [s.ego.v for s in scenes]
    moment = 0
    while True:
        live = [i for i, s in enumerate(scenes) if not s.ended()]
        if not live:
            break
        for i, move in zip(live, decide([scenes[i] for i in live], [i for i in live], moment)):
            scenes[i].move(*move[2:])
            tops[i] = max(tops[i], scenes[i].ego.v)
        moment += 1
    return [measures(s, s.ego.x - x, top) for s, x, top in zip(scenes, begins, tops)]


def careful_future(scene, count=MOVES):
    s, moves = scene.copy(), []
    for _ in range(count):
        moves.append(Careful().decide(s))
        s.move(*moves[-1][2:])
    return moves


def trajectory_error(model, language, scenes):
    """Metres between where the likeliest words lead and where the careful driver is, mean over four seconds."""
    total = n = 0
    futures = sample(model, [language.prompt(s) for s in scenes], "--max-tokens", str(WORDS_OF_A_MOVE * MOVES), "--temperature", "0")
    for s, samples in zip(scenes, futures):
        way = trajectory(Language.read(samples[0]["text"], s.ego.v), s.ego.v, s.ego.lane)
        want = trajectory(careful_future(s), s.ego.v, s.ego.lane)
        way += [way[-1] if way else (0.0, s.ego.lane)] * (MOVES - len(way))
        for (x, lane), (x2, lane2) in zip(way, want):
            total, n = total + math.hypot(x - x2, (lane - lane2) * LANE_WIDTH), n + 1
    return total / n


def moments(first, count):
    """Scenes in the middle of a mixed driver's drive, where nothing has happened yet."""
    scenes, seed = [], first
    while len(scenes) < count:
        s, driver, rng = make_scene(seed), Mixed(seed), random.Random(seed)
        for _ in range(rng.randrange(10)):
            if not s.ended():
                s.move(*driver.decide(s)[2:])
        if not s.ended():
            scenes.append(s)
        seed += 1
    return scenes


def eventful(o, count):
    """Held-out moments at which a change of lanes is due, from number --scene on."""
    due = [s for s in moments(HELD_OUT, 20 * (o.scene + count)) if s.ego.lane != s.target_lane() and s.beside(s.target_lane(), True)[1]]
    return due[o.scene:o.scene + count]


def evaluate(o, language):
    first = HELD_OUT + o.scene
    scenes = [make_scene(first + i) for i in range(o.scenes)]
    print("%-34s %7s %10s %8s %9s %7s %11s" % ("", "km", "collisions", "per km", "progress", "obeyed", "trajectory"))
    for name in o.models:
        error = ""
        if name in ("careful", "mixed"):
            drivers = [Careful() if name == "careful" else Mixed(first + i) for i in range(o.scenes)]
            drives = closed_loop(scenes, lambda live, numbers, _: [drivers[i].decide(s) for i, s in zip(numbers, live)])
        else:
            drives = closed_loop(scenes, lambda live, _, moment: [m[0] for m in model_moves(name, language, live, moment, o.of)])
            error = "%9.2f m" % trajectory_error(name, language, moments(first, min(500, 2 * o.scenes)))
        t = totals(drives)
        label = name if o.of == 1 or not error else "%s, likeliest of %d" % (name, o.of)
        print("%-34s %7.1f %10d %8.3f %9.3f %6.1f%% %11s" % (
            label, t["km"], t["collisions"], t["per_km"], t["progress"], 100 * t["obeyed"], error), flush=True)
        if o.output:
            with open(o.output, "a") as f:
                f.write(json.dumps({"model": label, **t}) + "\n")


# ---- the stages' data ----

def futures(o, language):
    s = eventful(o, 1)[0]
    samples = sample(o.models[0], [language.prompt(s)], "--num-samples", str(o.of), "--max-tokens", str(WORDS_OF_A_MOVE * MOVES))[0]
    print(language.prompt(s))
    for p, chain, ways in likeliest(samples, s.ego.v)[:5]:
        print("%.3f  %s" % (p, " ".join("%s(%s)" % step for step in chain)))
        for q, moves in ways[:2]:
            print("       %.3f  %s" % (q, "  ".join("%.1f m, lane %d" % at for at in trajectory(moves, s.ego.v, s.ego.lane))))


def takeovers(o, language):
    """The model drives; where its next move is another than the careful driver's, that one takes over, and a pair is noted.
    corrected.jsonl: what the careful driver would do at each of these moments."""
    pairs, corrected, moves = [], [], 0

    def decide(live, _, moment):
        nonlocal moves
        chosen = []
        for s, planned in zip(live, model_moves(o.models[0], language, live, moment, 1, MOVES)):
            want, moves, prompt = Careful().decide(s), moves + 1, language.prompt(s)
            right = words(language, careful_future(s), s.ego.v)
            corrected.append({"prompt": prompt, "completion": right})
            taken = len(planned) < MOVES or want[3] != planned[0][3] or abs(want[2] - planned[0][2]) >= 2
            if taken and len(planned) == MOVES:
                pairs.append({"prompt": prompt, "chosen": right, "rejected": words(language, planned, s.ego.v)})
            chosen.append(want if taken else planned[0])
        return chosen

    closed_loop([make_scene(TAKEOVERS + i) for i in range(o.scenes)], decide)
    random.Random(1).shuffle(pairs)
    held_out = len(pairs) // 10
    for name, part in (("pairs_held_out", pairs[:held_out]), ("pairs", pairs[held_out:]), ("corrected", corrected)):
        with open("%s/%s.jsonl" % (o.data, name), "w") as f:
            f.writelines(json.dumps(pair) + "\n" for pair in part)
    print("%d take-overs in %d moves: %d pairs to learn from, %d held out" % (len(pairs), moves, len(pairs) - held_out, held_out))


def words(language, moves, v):
    text = []
    for move in moves:
        text.append(language.move(v, *move))
        v = max(0, v + move[2])
    return "".join(text)


def watch(o, language):
    """The states that a model itself comes to are what it must learn from (Ross et al. 2011). Prompts are those where it does
    something else than the careful driver, and as many others."""
    corrected, differs, agrees = [], [], []

    def decide(live, _, moment):
        chosen = [m[0] for m in model_moves(o.models[0], language, live, moment, 1)]
        for s, move in zip(live, chosen):
            prompt, right = language.prompt(s), careful_future(s)
            corrected.append({"prompt": prompt, "completion": words(language, right, s.ego.v)})
            (agrees if move[2:] == right[0][2:] else differs).append({"prompt": prompt, "scene": s.to_json()})
        return chosen

    closed_loop([make_scene(WATCHED + o.scene + i) for i in range(o.scenes)], decide)
    random.Random(1).shuffle(agrees)
    prompts = differs + agrees[:len(differs)]
    random.Random(2).shuffle(prompts)
    for name, mode, part in (("corrected", "a", corrected), ("prompts", "w", prompts)):
        with open("%s/%s.jsonl" % (o.data, name), mode) as f:
            f.writelines(json.dumps(line) + "\n" for line in part)
    print("%d moments, in %.1f%% of them another move than the careful driver's; %d prompts" % (
        len(corrected), 100 * len(differs) / len(corrected), len(prompts)))


# ---- the reward ----

def worth(scene, moves, weights):
    """Of these moves and of what follows when the careful driver drives on from there to the end: safety, progress and comfort, each
    times its weight. All that is bad costs by the second."""
    s, safety, progress, comfort, top = scene.copy(), 0.0, 0.0, 0.0, 0
    moves, careful = list(moves), Careful()
    while not s.ended():
        move = moves.pop(0) if moves else careful.decide(s)
        s.move(*move[2:])
        top = max(top, s.ego.v)
        comfort -= max(0, abs(move[2]) - 2) / 24
        gap, ahead = s.beside(s.ego.lane, True)
        rear, behind = s.beside(s.ego.lane, False)
        if ahead is not None:  # nearly a second to the car in front, and room to stop behind it
            closing = max(0.0, s.ego.v - ahead.v)
            safety -= max(0.0, 1 - gap / (2 + 0.8 * s.ego.v + closing * closing / 10)) / 2
        if behind is not None and move[3]:  # the same for the one that it cuts in on
            closing = max(0.0, behind.v - s.ego.v)
            safety -= max(0.0, 1 - rear / (4 + 0.5 * behind.v + closing * closing / 6)) / 2
        over = s.ego.v - s.speed
        progress -= 0.05 * max(0, -over) + 0.1 * max(0, over) + 0.2 * abs(s.ego.lane - s.target_lane())
    safety -= 10.0 * s.crashed
    progress -= 4.0 * (not obeyed(s, top))
    return weights[0] * safety + weights[1] * progress + weights[2] * comfort


def reward(scene, text, weights):
    """How much less an answer's moves are worth than the careful driver's own would be. What is worth as much is 0, what seems worth
    more is, too: bolder is better only as long as somebody careful drives on from there."""
    moves = Language.read(text, scene.ego.v)
    if not moves or len(moves) != text.count("<") / WORDS_OF_A_MOVE:
        return -15.0
    if [m[2:] for m in moves] == [m[2:] for m in careful_future(scene, len(moves))]:
        return 0.0
    return min(0.0, max(-15.0, worth(scene, moves, weights) - worth(scene, [], weights)))


def answer(o):
    weights = [float(w) for w in o.weights.split(",")]
    for line in sys.stdin:
        j = json.loads(line)
        print("%.6f" % reward(Scene.from_json(j["scene"]), j["completion"], weights), flush=True)


def draw(o, language):
    scenes = eventful(o, 3)
    rows = []
    for model in o.models:
        of_each = sample(model, [language.prompt(s) for s in scenes], "--num-samples", str(o.of), "--max-tokens", str(WORDS_OF_A_MOVE * MOVES))
        rows.append((os.path.basename(model), [[(p, trajectory(moves, s.ego.v, s.ego.lane)) for _, _, ways in likeliest(samples, s.ego.v)
                                                for p, moves in ways] for s, samples in zip(scenes, of_each)]))
    with open(o.output or o.data + "/scenes.svg", "w") as f:
        f.write(picture(scenes, rows))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stage", choices=["evaluate", "futures", "takeovers", "watch", "reward", "picture"])
    parser.add_argument("models", nargs="*")
    parser.add_argument("--data", default="data/drive")
    parser.add_argument("--scenes", type=int, default=400)
    parser.add_argument("--scene", type=int, default=0, help="which one to begin with")
    parser.add_argument("--of", type=int, default=1, help="futures that are sampled")
    parser.add_argument("--weights", default="1,1,0.3", help="of safety, progress and comfort")
    parser.add_argument("-o", "--output")
    o = parser.parse_args()
    if o.stage == "reward":
        return answer(o)
    stages = {"evaluate": evaluate, "futures": futures, "takeovers": takeovers, "watch": watch, "picture": draw}
    stages[o.stage](o, Language.load(o.data))


if __name__ == "__main__":
    main()
