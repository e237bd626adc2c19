"""What dev/gpu_check.sh computes itself: names, CSV and ratios of the part counters; limits of time.

    python3 dev/gpu_check/test_gpu_check.py        (test/test_gpu_check.cpp runs it)
"""
import json
import os
import sys
import unittest

sys.dont_write_bytecode = True
sys.argv = sys.argv[:1]
os.chdir(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))
import common  # noqa: E402
import counters  # noqa: E402


class Counters(unittest.TestCase):
    def setUp(self):
        self.counted = json.loads(common.read("dev/gpu_check/ncu_example_counts.json"))  # what the example was made of
        self.launches = counters.parse_ncu(common.read(counters.EXAMPLE))

    def test_names_are_those_of_the_report(self):
        for ncu, ours in (
                ("void layernorm_forward_kernel<(int)8, (int)4, (bool)0, (bool)1, bf16>(T5 *, float *, const T5 *)",
                 "layernorm_forward_kernel<8, 4, false, true, bf16>"),
                ("void attention_mma::backward_kernel<(bool)1,(int)64>(Arguments)", "backward_kernel<true, 64>"),
                ("sum_kernel(double *, const double *, int)", "sum_kernel"),
                ("void optimizer_kernel<(StateType)0, bf16>(OptimizerArrays<bf16>)", "optimizer_kernel<(StateType)0, bf16>"),
                ("void <unnamed>::count_up_kernel(int *, int)", "count_up_kernel")):
            self.assertEqual(counters.short_name(ncu), ours)

    def test_the_reports_counts_have_this_form(self):
        report = json.loads(common.read(counters.COUNTED))
        self.assertEqual(set(report), set(self.counted))
        self.assertGreater(len(report["kernels"]), 20)
        for kernel in report["kernels"]:
            self.assertEqual(set(kernel), set(self.counted["kernels"][0]))

    def test_the_details_page(self):
        self.assertGreaterEqual(len(self.launches), 8)
        first = self.launches[0]
        self.assertEqual(first["kernel"], self.counted["kernels"][0]["kernel"])
        self.assertEqual((first["grid"], first["block"]), ((384, 64, 1), (256, 1, 1)))
        self.assertEqual(first["dram__bytes.sum"], 302252032)  # written "302,252,032"

    def test_the_raw_page_and_its_units(self):
        text = ('==PROF== Connected\n"ID","Kernel Name","Block Size","Grid Size","dram__bytes.sum","gpu__time_duration.sum"\n'
                '"","","","","Mbyte","usecond"\n"0","sum_kernel(double *)","(512, 1, 1)","(1, 1, 1)","1.5","2.25"\n'
                '"1","sum_kernel(double *)","(512, 1, 1)","(1, 1, 1)","n/a","3"\n')
        first, second = counters.parse_ncu(text)
        self.assertEqual((first["dram__bytes.sum"], first["gpu__time_duration.sum"]), (1.5e6, 2250))
        self.assertNotIn("dram__bytes.sum", second)
        self.assertEqual(counters.parse_ncu("==ERROR== ERR_NVGPUCTRPERM\n"), [])

    def test_ratios(self):
        rows = counters.beside(self.counted, self.launches, "h100")
        self.assertEqual(len(rows), len(self.counted["kernels"]))
        pairs = [p for _, p in rows if p]
        self.assertEqual(len(pairs), len(self.launches))  # each found its own, those with the same grid by their arguments
        for p in pairs:  # the example has 1.25 times the instructions, and else what was counted; sectors of two metrics
            self.assertEqual(set(p), set(counters.METRICS))
            self.assertAlmostEqual(p["instructions"][1] / p["instructions"][0], 1.25, places=6)
            for what in ("sectors", "l2_sectors", "dram_bytes"):
                self.assertAlmostEqual(p[what][1] / p[what][0], 1, places=4)
        self.assertNotIn("ms", next(p for _, p in counters.beside(self.counted, self.launches, None) if p))
        lines = counters.table(rows)
        self.assertEqual(len(lines), len(rows) + 2)
        self.assertIn(" = 0.80 |", lines[2])
        self.assertTrue(any("| - | - |" in line for line in lines))  # a kernel that the GPU did not launch

    def test_metrics_are_asked_for_once_each(self):
        names = counters.metric_names()
        self.assertEqual(len(names), len(set(names)))
        self.assertEqual(len(names), len(counters.METRICS) + 1)


class Times(unittest.TestCase):
    def test_correctness_and_a_whole_run_come_first(self):
        order = list(common.TIMES)
        self.assertLess(order.index("training"), order.index("rest"))  # which a slow host may take long over
        for first in ("training", "throughput"):
            for later in ("sanitizer", "speed", "counters", "pytorch"):
                self.assertLess(order.index(first), order.index(later))
        self.assertLess(order.index("tests"), order.index("sanitizer"))

    def test_what_is_kept_for_all_parts_fits_in_the_eight_minutes(self):
        self.assertLessEqual(sum(kept for kept, _ in common.TIMES.values()), 60 * 8)


if __name__ == "__main__":
    unittest.main()
