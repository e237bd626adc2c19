"""python3 -m unittest discover -s dev/examples/drive -p check.py: the simulator, the language and the reward, in a second."""
import json
import os
import tempfile
import unittest

from language import MOVES, Language, fixed_words, trajectory
from logs import log
from simulator import LENGTH, Car, Careful, Mixed, Scene, drive, make_scene, totals
from stages import careful_future, likeliest, reward, words


class Simulator(unittest.TestCase):
    def test_the_same_seed_is_the_same_drive(self):
        for seed in range(5):
            self.assertEqual(drive(make_scene(seed), Mixed(seed)), drive(make_scene(seed), Mixed(seed)))

    def test_careful_drivers_do_not_crash_and_mixed_ones_do(self):
        scenes = [make_scene(seed) for seed in range(15)]
        self.assertEqual(totals([drive(s, Careful()) for s in scenes])["collisions"], 0)
        self.assertGreater(totals([drive(s, Mixed(i)) for i, s in enumerate(scenes)])["collisions"], 0)

    def test_what_is_hit(self):
        ahead = Scene(Car(1, 0, 20, 0), [Car(1, 20, 0, 30)], 1, 20)
        ahead.move(0, 0)
        self.assertTrue(ahead.crashed)
        beside = Scene(Car(1, 0, 20, 0), [Car(0, 0, 20, 20)], 0, 20)
        beside.move(0, -1)
        self.assertTrue(beside.crashed)
        alone = Scene(Car(1, 0, 20, 0), [Car(0, 0, 20, 20), Car(1, 4 * LENGTH, 25, 30)], 1, 20)
        alone.move(2, 0)
        self.assertFalse(alone.crashed)
        self.assertEqual((alone.ego.v, alone.ego.x), (22, 21.0))

    def test_json_is_the_same_scene(self):
        s = make_scene(3)
        s.move(1, 0)
        again = Scene.from_json(json.loads(json.dumps(s.to_json())))
        for scene in (s, again):
            scene.move(-2, 0)
        self.assertAlmostEqual(s.beside(s.ego.lane, True)[0], again.beside(again.ego.lane, True)[0], delta=0.5)  # but for cars far off


class Words(unittest.TestCase):
    def test_a_move_is_read_back_without_rounding(self):
        scene = make_scene(2)
        moves = careful_future(scene)
        text = words(Language(2000), moves, scene.ego.v)
        self.assertEqual(Language.read(text, scene.ego.v), moves)
        for move in moves:
            scene.move(*move[2:])
        self.assertEqual(trajectory(moves, make_scene(2).ego.v, make_scene(2).ego.lane)[-1], (scene.ego.x, scene.ego.lane))
        self.assertEqual(Language.read("<keep><keep>" + text, 20), [])

    def test_as_many_words_as_there_is_room_for(self):
        for size in (600, 2000, 500000):
            language = Language(size)
            cells = {language.cell_word((i, j)) for i in range(language.gaps) for j in range(language.speeds)}
            self.assertEqual(len(cells), language.gaps * language.speeds)
            self.assertLessEqual(len(cells) + len(fixed_words()), size)
            self.assertGreater(len(cells) + len(fixed_words()), 0.9 * size)

    def test_a_cell_that_no_log_has_is_the_nearest_one(self):
        language = Language(2000)
        for i in range(20):
            log(make_scene(i), Mixed(i), language)
        with tempfile.TemporaryDirectory() as directory:
            language.save(directory)
            with open(directory + "/tokenizer.json") as f:
                self.assertEqual(json.load(f)["model"]["vocab"]["<|endoftext|>"], 0)
            again = Language.load(directory)
        self.assertEqual(again.words_in_use(), language.words_in_use())
        self.assertIn(again.neighbour(3.21, -13.9), language.words_in_use())

    def test_likeliest_chain(self):
        def one(text, p):
            return {"text": text, "log_probability": p}
        keep, brake = "<keep><because:clear><20.0m:0>", "<brake><because:lead><%.1fm:0>"
        chains = likeliest([one(keep, -0.9), one(keep, -0.9), one(brake % 19, -1.2), one(brake % 18, -1.3)], 20)
        self.assertEqual(chains[0][1], (("brake", "lead"),))
        self.assertEqual(chains[0][2][0][1], [("brake", "lead", -2, 0)])


class Reward(unittest.TestCase):
    def value(self, scene, *moves):
        before = json.dumps(scene.to_json())
        value = reward(scene, words(Language(2000), moves, scene.ego.v), (1, 1, 0.3))
        self.assertEqual(json.dumps(scene.to_json()), before)
        return value

    def test_what_it_likes(self):
        road = Scene(Car(1, 0.0, 20, 0), [], 1, 20)
        keep, brake = ("keep", "clear", 0, 0), ("brake", "clear", -3, 0)
        for moves in (1, MOVES):
            self.assertEqual(self.value(road, *[keep] * moves), 0)  # what the careful driver does
        self.assertLess(self.value(road, brake), -0.2)
        self.assertLess(self.value(road, *[brake] * MOVES), self.value(road, brake))
        self.assertLess(self.value(Scene(Car(1, 0.0, 20, 0), [Car(1, 40, 0, 30)], 1, 20), *[keep] * MOVES), -5)
        self.assertLess(self.value(Scene(Car(1, 0.0, 20, 0), [], 0, 20), keep), -0.1)  # does not go where it shall
        self.assertLess(self.value(Scene(Car(1, 0.0, 20, 0), [Car(0, 0.0, 20, 20)], 0, 20), ("right", "goal", 0, -1)), -5)
        self.assertEqual(reward(road, "<keep>", (1, 1, 0.3)), -15)


if __name__ == "__main__":
    os.chdir(os.path.dirname(os.path.abspath(__file__)))
    unittest.main()
