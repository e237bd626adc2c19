"""A straight highway of three lanes, a few hundred metres of it around one car: the own one ("ego").

Whoever drives the ego decides once a second: how its speed changes in that second, in whole m/s, and whether it moves one lane
to the side meanwhile. So its way is exact in half metres, and a word says it without rounding (language.py). The other cars
follow the car in front (the Intelligent Driver Model, Treiber et al. 2000), and some brake hard without a reason that anybody could see. All
that happens is decided when a scene is made, from its seed: the same moves from the same scene have the same end.

Lanes count from the right, 0 to 2; x is where a car's front is, in metres; speeds are in m/s.
"""
import copy
import math
import random

LANES, LANE_WIDTH, LENGTH = 3, 3.5, 5.0
SECONDS = 20           # that a drive lasts
STEP = 0.25            # of the simulation
BRAKES = (-8, 2)       # the ego's speed changes by so much a second at most
TOP_SPEED = 36
SPEEDS = (20, 24, 28)  # that may be commanded
RANGE = 100.0          # how far the ego sees


class Car:
    def __init__(self, lane, x, v, wish, brakes_at=math.inf):
        self.lane, self.x, self.v, self.wish, self.brakes_at = lane, x, v, wish, brakes_at


class Scene:
    """ego, cars; to: the lane where it shall end, or "exit"; speed: the commanded one; exit: where that is, or None."""

    def __init__(self, ego, cars, to, speed, exit=None, t=0.0):
        self.ego, self.cars, self.to, self.speed, self.exit, self.t = ego, cars, to, speed, exit, t
        self.crashed, self.from_lane = False, ego.lane  # from_lane: where it comes from while it changes lanes

    def target_lane(self):
        return 0 if self.to == "exit" else self.to

    def ended(self):
        return self.crashed or self.t >= SECONDS or (self.exit is not None and self.ego.x >= self.exit)

    def beside(self, lane, ahead):
        """(gap in metres from bumper to bumper, car) of the next one in a lane; (RANGE, None): nobody in sight."""
        best = (RANGE, None)
        for car in self.cars:
            d = car.x - self.ego.x
            if car.lane == lane and (d >= 0) == ahead and max(0.0, abs(d) - LENGTH) < best[0]:
                best = (max(0.0, abs(d) - LENGTH), car)
        return best

    def move(self, dv, side):
        """One second: the speed changes by dv, and the lane by side (-1 right, 0, +1 left). What a car cannot do, it does not."""
        ego = self.ego
        v0 = ego.v
        v1 = min(TOP_SPEED, max(0, v0 + min(BRAKES[1], max(BRAKES[0], dv))))
        self.from_lane, ego.lane = ego.lane, min(LANES - 1, max(0, ego.lane + side))
        for _ in range(round(1 / STEP)):
            self.follow()
            ego.v = ego.v + (v1 - v0) * STEP
            ego.x += (ego.v - (v1 - v0) * STEP / 2) * STEP
            self.t += STEP
            if any(car.lane in (ego.lane, self.from_lane) and abs(car.x - ego.x) < LENGTH for car in self.cars):
                self.crashed = True
                break
        ego.v, self.from_lane = v1, ego.lane

    def follow(self):
        """All cars but the ego go on for a step, each by the car in front as it is now."""
        ego, moved = self.ego, []
        for lane in range(LANES):
            cars = [car for car in self.cars if car.lane == lane]
            if lane in (ego.lane, self.from_lane):
                cars.append(ego)
            cars.sort(key=lambda car: -car.x)
            lead = None
            for car in cars:
                if car is not ego:
                    a = 1.5 * (1 - (car.v / car.wish) ** 4)
                    if lead is not None and lead.x - car.x - LENGTH < RANGE:
                        want = 2 + max(0.0, car.v * 1.2 + car.v * (car.v - lead.v) / 4.24)
                        a -= 1.5 * (want / max(0.5, lead.x - car.x - LENGTH)) ** 2
                    if car.brakes_at <= self.t < car.brakes_at + 2:
                        a = -5
                    moved.append((car, max(0.0, car.v + max(-9.0, a) * STEP)))
                lead = car
        for car, v in moved:
            car.x, car.v = car.x + (car.v + v) / 2 * STEP, v

    # A scene as JSON, from where the ego is.
    def to_json(self):
        e = self.ego
        return {"ego": [e.lane, e.v], "to": self.to, "speed": self.speed, "t": self.t,
                "exit": None if self.exit is None else self.exit - e.x,
                "cars": [[c.lane, c.x - e.x, c.v, c.wish, None if c.brakes_at == math.inf else c.brakes_at] for c in self.cars if abs(c.x - e.x) < 2 * RANGE]}

    @staticmethod
    def from_json(j):
        cars = [Car(lane, x, v, wish, math.inf if at is None else at) for lane, x, v, wish, at in j["cars"]]
        return Scene(Car(j["ego"][0], 0.0, j["ego"][1], 0), cars, j["to"], j["speed"], j["exit"], j["t"])

    def copy(self):
        again = copy.copy(self)
        again.ego, again.cars = copy.copy(self.ego), [copy.copy(car) for car in self.cars]
        return again


def make_scene(seed):
    rng = random.Random(seed)
    speed, lane = rng.choice(SPEEDS), rng.randrange(LANES)
    to = rng.choice([0, 1, 2, "exit"])
    scene = Scene(Car(lane, 0.0, speed - rng.randrange(0, 5), 0), [], to, speed, 400.0 if to == "exit" else None)
    if to == "exit":
        scene.exit = float(rng.randrange(260, 420, 10))
    for at in range(LANES):
        x = rng.uniform(-110, -60)
        while x < 220:
            v = rng.uniform(19, 24) + 2 * at
            free = 14 + 1.2 * max(0, scene.ego.v - v) + (0.9 * scene.ego.v if x >= 0 else 0.9 * v)
            if at != lane or abs(x) > free + LENGTH:
                brakes_at = rng.uniform(1, SECONDS) if rng.random() < 0.12 else math.inf
                scene.cars.append(Car(at, x, v, v + rng.uniform(0, 3), brakes_at))
            x += LENGTH + rng.uniform(35, 110)
    return scene


# ---- drivers: a scene in; (decision, reason, dv, side) out ----

def safe_speed(gap, lead, brakes=7.0, delay=1.0):
    """From which one still stops behind a car that brakes with all it has (Krauss 1998)."""
    return -brakes * delay + math.sqrt(brakes * brakes * delay * delay + lead * lead + 2 * brakes * max(0.0, gap - 2))


class Careful:
    """delay: seconds it keeps to the car in front; checks: whether it looks before it changes lanes; over: m/s over what was commanded."""

    def __init__(self, delay=1.0, checks=True, over=0):
        self.delay, self.checks, self.over = delay, checks, over

    def may_change(self, s, lane):
        gap, ahead = s.beside(lane, True)
        rear, behind = s.beside(lane, False)
        return ((ahead is None or (gap > 4 and safe_speed(gap, ahead.v) >= s.ego.v - 1)) and
                (behind is None or (rear > 4 and safe_speed(rear, s.ego.v, delay=0.5) >= behind.v)))

    def decide(self, s):
        ego, wish = s.ego, s.speed + self.over
        side = (s.target_lane() > ego.lane) - (s.target_lane() < ego.lane)
        limits = [(wish, "clear")]
        lanes = [ego.lane]
        blocked = side != 0 and self.checks and not self.may_change(s, ego.lane + side)
        if blocked:
            gap, ahead = s.beside(ego.lane + side, True)
            rear, behind = s.beside(ego.lane + side, False)
            if ahead is not None and gap < 30:
                limits.append((max(ahead.v - 3, 12), "gap"))  # falls back behind it
            elif behind is not None and behind.v >= ego.v - 1:
                limits.append((max(behind.v - 3, 12), "gap"))  # lets it pass
            side = 0
        elif side and self.checks:
            lanes.append(ego.lane + side)
        for lane in lanes:
            gap, ahead = s.beside(lane, True)
            if ahead is not None:
                limits.append((safe_speed(gap, ahead.v, delay=self.delay), "lead"))
        limit, reason = min(limits)
        dv = min(BRAKES[1], max(BRAKES[0], math.floor(limit + 1e-9) - ego.v))
        dv = max(dv, -2) if reason in ("clear", "gap") else dv
        if side:
            return ("left" if side > 0 else "right"), "goal", dv, side
        return ("brake" if dv < 0 else "keep"), reason, dv, 0


class Mixed:
    """Who drives for the logs: one is careful, one follows too closely, looks too seldom and goes too fast, one dawdles."""

    def __init__(self, seed):
        self.rng = random.Random(seed)
        kind = self.rng.random()
        self.inattentive = self.unchecked = self.dawdles = 0.0
        self.driver = Careful()
        if kind > 0.75:
            self.dawdles = 0.3
            self.driver = Careful(over=-self.rng.randrange(3, 7))
        elif kind > 0.35:
            self.inattentive, self.unchecked = 0.3, 0.5
            self.driver = Careful(delay=0.3, over=self.rng.randrange(0, 3))

    def decide(self, s):
        if self.rng.random() < self.inattentive:  # sees nobody
            return Careful(checks=False, over=self.driver.over).decide(alone(s))
        self.driver.checks = self.rng.random() >= self.unchecked
        decision, reason, dv, side = self.driver.decide(s)
        if side and self.rng.random() < self.dawdles:
            return "keep", reason if reason != "goal" else "clear", min(0, dv), 0
        return decision, reason, dv, side


def alone(s):
    return Scene(s.ego, [], s.to, s.speed, s.exit, s.t)


# ---- what a drive was worth ----

def obeyed(s, top):
    """Whether the commands were: at the end in that lane, or out by the exit; not faster, nor slower where the road was free."""
    if s.crashed or s.ego.lane != s.target_lane() or top > s.speed + 2:
        return False
    gap, ahead = s.beside(s.ego.lane, True)
    return s.ego.v >= s.speed - 3 or (ahead is not None and gap < 60)


def drive(scene, driver):
    """To the end. Returns the measures of it that totals() adds up."""
    s, x, top = scene.copy(), scene.ego.x, scene.ego.v
    while not s.ended():
        s.move(*driver.decide(s)[2:])
        top = max(top, s.ego.v)
    return measures(s, s.ego.x - x, top, scene.t)


def measures(s, metres, top, began=0.0):
    return {"metres": metres, "wish": s.speed * (s.t - began), "crash": s.crashed, "obeyed": obeyed(s, top)}


def totals(drives):
    km = sum(d["metres"] for d in drives) / 1000
    return {"km": km, "collisions": sum(d["crash"] for d in drives), "per_km": sum(d["crash"] for d in drives) / km,
            "progress": sum(d["metres"] for d in drives) / sum(d["wish"] for d in drives),
            "obeyed": sum(d["obeyed"] for d in drives) / len(drives)}


if __name__ == "__main__":
    scenes = [make_scene(seed) for seed in range(500)]
    print("careful", totals([drive(s, Careful()) for s in scenes]))
    print("mixed  ", totals([drive(s, Mixed(i)) for i, s in enumerate(scenes)]))
