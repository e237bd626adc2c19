"""Scenes from above as an SVG: the cars, and the futures that models see for the ego, the likelier the darker."""
from simulator import LANE_WIDTH, LANES, LENGTH

SCALE, ACROSS, BACK, AHEAD = 4.0, 3.0, 40, 140  # pixels a metre along and across, metres that are seen


def picture(scenes, rows):
    """rows: (name, for each scene [(probability, [(x, lane), ...]), ...])."""
    road, gap = LANES * LANE_WIDTH * ACROSS, 34
    width, height = (BACK + AHEAD) * SCALE, (road + gap) * len(scenes) * len(rows) + 10
    out = ['<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" font-family="sans-serif" font-size="12">' % (width, height),
           '<rect width="100%" height="100%" fill="white"/>']
    top = gap
    for number, scene in enumerate(scenes):
        for name, futures in rows:
            def place(x, lane):
                return (x + BACK) * SCALE, top + (LANES - lane - 0.5) * LANE_WIDTH * ACROSS
            ego = scene.ego
            out.append('<text x="4" y="%.0f">%s: to %s at %d m/s, now %d m/s</text>' % (
                top - 6, name, scene.to if scene.to == "exit" else "lane %d" % scene.to, scene.speed, ego.v))
            out.append('<rect x="0" y="%.1f" width="%.0f" height="%.1f" fill="#e8e8e8"/>' % (top, width, road))
            for lane in range(1, LANES):
                y = top + lane * LANE_WIDTH * ACROSS
                out.append('<path d="M0 %.1fH%.0f" stroke="white" stroke-width="2" stroke-dasharray="16 16"/>' % (y, width))
            likeliest = max((p for p, _ in futures[number]), default=1)
            for p, way in sorted(futures[number], key=lambda future: future[0]):
                points = " ".join("%.1f,%.1f" % place(x, lane) for x, lane in [(0, ego.lane)] + way)
                out.append('<polyline points="%s" fill="none" stroke="#06c" stroke-width="2" opacity="%.2f"/>' % (
                    points, 0.1 + 0.9 * p / likeliest))
            for car in scene.cars + [ego]:
                x, y = place(car.x - ego.x - LENGTH, car.lane)
                if 0 <= x <= width:
                    out.append('<rect x="%.1f" y="%.1f" width="%.0f" height="6" fill="%s"/>' % (
                        x, y - 3, LENGTH * SCALE, "#c00" if car is ego else "#555"))
            top += road + gap
    return "\n".join(out + ["</svg>"]) + "\n"
