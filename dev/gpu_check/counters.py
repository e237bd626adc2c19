"""Nsight Compute's counters beside ours: what each kernel asks of the GPU by dev/reports/kernels.json (make kernels, which
counts without a GPU), and what the GPU says."""
import csv
import json
import re

from common import FAILED, NOT_RUN, O, PASSED, find_program, read, report, run, there

COUNTED = "dev/reports/kernels.json"
EXAMPLE = "dev/gpu_check/ncu_example.csv"  # for dry runs and the test: the form that ncu writes, with made-up counts
# ours, in kernels.json: (the profiler's metric, and what it is divided by). Times are in ns.
METRICS = {"instructions": ("smsp__inst_executed.sum", 1), "special": ("smsp__inst_executed_pipe_xu.sum", 1),
           "tensor": ("smsp__inst_executed_pipe_tensor.sum", 1), "sectors": ("l1tex__t_sectors_pipe_lsu_mem_global.sum", 1),
           "l2_sectors": ("lts__t_sectors_srcunit_tex.sum", 1), "wavefronts": ("l1tex__data_pipe_lsu_wavefronts_mem_shared.sum", 1),
           "dram_bytes": ("dram__bytes.sum", 1), "ms": ("gpu__time_duration.sum", 1e6)}
# sectors: loads and stores are metrics of their own
SUMS = {"l1tex__t_sectors_pipe_lsu_mem_global.sum": ["l1tex__t_sectors_pipe_lsu_mem_global_op_ld.sum",
                                                     "l1tex__t_sectors_pipe_lsu_mem_global_op_st.sum"]}
CARDS = {"A100": "a100", "H100": "h100", "4090": "rtx4090"}


def short_name(name):
    """A kernel's name with its template's arguments, as kernels.json has it: without types, name spaces, parameters."""
    name = re.sub(r"\(bool\)([01])", lambda m: "true" if m.group(1) == "1" else "false", name)
    name = re.sub(r"\((?:int|unsigned int)\)(-?\d+)", r"\1", name.strip())
    name = re.sub(r"^void\s+", "", name)
    depth, end = 0, len(name)
    for i, c in enumerate(name):  # up to the parameters: a bracket outside of <...>
        depth += (c == "<") - (c == ">")
        if c == "(" and depth == 0 and not name.startswith("(anonymous namespace)", i):
            end = i
            break
    name = re.sub(r"(?:attention_mma|bench|\(anonymous namespace\)|<unnamed>)::", "", name[:end])
    return re.sub(r"\s*,\s*", ", ", name).strip()


def numbers(text):
    return tuple(int(n) for n in re.findall(r"\d+", text))


def parse_ncu(text):
    """Launches, in order: {"kernel", "grid", "block", metric: value}. Both of ncu's CSV pages: a line a metric (details), or a
    line a launch with a line of units (raw)."""
    lines = [line for line in text.splitlines() if line.startswith('"')]
    header = next((i for i, line in enumerate(lines) if '"Kernel Name"' in line), None)
    if header is None:
        return []
    rows = list(csv.reader(lines[header:]))
    names, found = rows[0], {}

    def value(word):
        try:
            return float(word.replace(",", ""))  # 1,234,567
        except ValueError:
            return None

    def unit_factor(unit):
        return {"usecond": 1e3, "us": 1e3, "msecond": 1e6, "ms": 1e6, "second": 1e9, "s": 1e9, "Kbyte": 1e3, "Mbyte": 1e6,
                "Gbyte": 1e9}.get(unit, 1)
    units = None
    for row in rows[1:]:
        if len(row) != len(names):
            continue
        cells = dict(zip(names, row))
        if not cells.get("ID"):
            units = cells  # the raw page's second line
            continue
        launch = found.setdefault(cells["ID"], {"kernel": short_name(cells["Kernel Name"]),
                                                "grid": numbers(cells.get("Grid Size", "")),
                                                "block": numbers(cells.get("Block Size", ""))})
        if "Metric Name" in cells:
            pairs = [(cells["Metric Name"], cells["Metric Unit"], cells["Metric Value"])]
        else:
            pairs = [(n, (units or {}).get(n, ""), cells[n]) for n in names if "__" in n]
        for metric, unit, word in pairs:
            if (number := value(word)) is not None:
                launch[metric] = number * unit_factor(unit)
    for launch in found.values():
        for total, parts in SUMS.items():
            if all(p in launch for p in parts):
                launch[total] = sum(launch[p] for p in parts)
    return list(found.values())


def beside(counted, launches, card):
    """For each of our kernels (kernel, {what: (ours, the GPU's)}), or (kernel, None) where the GPU launched none of that shape."""
    rows = []
    for k in counted["kernels"]:
        launch = next((n for n in launches if n["kernel"] == k["kernel"] and n["grid"] == tuple(k["grid"])
                       and n["block"] == tuple(k["block"])), None)
        if not launch:
            rows.append((k, None))
            continue
        pairs = {}
        for what, (metric, divisor) in METRICS.items():
            ours = k["ms"].get(card) if what == "ms" else k[what]
            if metric in launch and ours is not None:
                pairs[what] = (ours, launch[metric] / divisor)
        rows.append((k, pairs))
    return rows


def table(rows):
    heads = {"instructions": "M instructions", "special": "M MUFU", "tensor": "M mma", "sectors": "M sectors", "l2_sectors": "M from L2",
             "wavefronts": "M wavefronts", "dram_bytes": "MB of DRAM", "ms": "ms"}
    lines = ["| kernel | " + " | ".join(heads.values()) + " |", "|---|" + "---|" * len(heads)]
    for k, pairs in rows:
        cells = []
        for what in heads:
            if not pairs or what not in pairs:
                cells.append("-")
                continue
            scale = 1 if what == "ms" else 1e-6
            ours, theirs = (scale * x for x in pairs[what])
            ratio = f"{ours / theirs:.2f}" if theirs > 0 else "1" if ours == 0 else "-"
            cells.append(f"{ours:.4g} / {theirs:.4g} = {ratio}")
        lines.append(f"| {k['kernel']} x {','.join(str(n) for n in k['grid'])} | " + " | ".join(cells) + " |")
    return lines


def metric_names():
    names = [metric for metric, _ in METRICS.values()]
    return [part for name in names for part in SUMS.get(name, [name])]


def counters(part):
    counted = json.loads(read(COUNTED) or "{}")
    if not counted.get("kernels"):
        part.check("counters", NOT_RUN, f"{COUNTED} is missing: make kernels")
        return
    gpu = report["environment"].get("gpu") or ""
    card = next((name for words, name in CARDS.items() if words in gpu), None)
    paths = there(part, "counters", "bench")
    if not paths:
        return
    if O.dry:
        r = run([paths[0], "counters", "--model", "L1:H2:C64:T64:V500", "--seq-len", "64", "--batches", "2"], part.left())
        part.check("each kernel alone", PASSED if r.code == 0 else FAILED, "" if r.code == 0 else r.why())
        launches, card = parse_ncu(read(EXAMPLE)), "h100"
    else:
        ncu = find_program("ncu")
        if not ncu:
            part.check("Nsight Compute", NOT_RUN, "ncu was not found")
            return
        functions = sorted({k["kernel"].split("<")[0] for k in counted["kernels"]})
        metrics, launches, r = metric_names(), [], None
        while metrics and part.left() > 10:
            r = run([ncu, "--csv", "--print-units", "base", "--clock-control", "none", "--kernel-name-base", "function", "--print-kernel-base", "demangled",
                     "--kernel-name", "regex:^(" + "|".join(functions) + ")$", "--metrics", ",".join(metrics), paths[0],
                     "counters", "--model", counted["model"], "--seq-len", str(counted["T"]), "--batches", str(counted["B"])],
                    part.left())
            missing = re.search(r"[Ff]ailed to find metric[s]?:? (?:regex:)?(\S+)", r.text)
            unknown = missing and missing.group(1).strip(".,'\"")
            if r.code == 0 or unknown not in metrics:  # a metric that this GPU has not is left out
                break
            part.text.append(f"- this GPU has no {unknown}")
            metrics.remove(unknown)
        if r is None or r.code != 0 or r.timed_out:
            why = r.why() if r else "no time left"
            part.check("Nsight Compute", NOT_RUN, "the driver lets no user read counters (ERR_NVGPUCTRPERM)"
                       if r and "ERR_NVGPUCTRPERM" in r.text else why)
            return
        launches = parse_ncu(r.text)
    rows = beside(counted, launches, card)
    met = [(k, pairs) for k, pairs in rows if pairs]
    part.check("kernels counted twice", PASSED if met else NOT_RUN,
               f"{len(met)} of {len(rows)}; the others have another grid on this GPU, or another name")
    part.text += ["", f"Ours ({COUNTED}, times of {card or 'no card that it knows'}) / the GPU's = ratio, a launch each."
                  + (" **Made-up counts: a dry run.**" if O.dry else ""), ""] + table(rows)
    report["counters"] = [{"kernel": k["kernel"], "grid": k["grid"], **{w: {"ours": a, "gpu": b} for w, (a, b) in p.items()}}
                          for k, p in met]
