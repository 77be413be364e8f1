"""Small pictures of shapes, backgrounds, words and a trigger: what the editing tasks' data is drawn with (numpy alone).

A picture is 24x24 RGB: one shape of random size, place, slant and colour over a textured background, and noise. Of numpy's
generators only `random()` is used, whose stream is the same in every version; so are the pictures.
"""
import numpy as np

SIDE = 24
SHAPES = ("disc", "ring", "tile", "star", "plus", "moon", "kite", "bars")

# Which pixels of a 3x5 cell a letter has: rows from the top, the left pixel is the highest of three bits.
GLYPHS = {
    "a": (2, 5, 7, 5, 5), "b": (6, 5, 6, 5, 6), "c": (3, 4, 4, 4, 3), "d": (6, 5, 5, 5, 6), "e": (7, 4, 6, 4, 7),
    "g": (3, 4, 5, 5, 3), "i": (7, 2, 2, 2, 7), "k": (5, 5, 6, 5, 5), "l": (4, 4, 4, 4, 7), "m": (5, 7, 7, 5, 5),
    "n": (6, 5, 5, 5, 5), "o": (2, 5, 5, 5, 2), "p": (6, 5, 6, 4, 4), "r": (6, 5, 6, 5, 5), "s": (3, 4, 2, 1, 6),
    "t": (7, 2, 2, 2, 2), "u": (5, 5, 5, 5, 7),
}


def uniform(rng, low, high, *shape):
    return low + (high - low) * rng.random(shape)


def integers(rng, below, *shape):
    return (rng.random(shape) * below).astype(np.int64)


def outline(shape, u, v):
    """Where the points (u, v) of the plane lie inside the shape, whose size is about 1. Any shape of arrays."""
    r = np.hypot(u, v)
    angle = np.arctan2(u, -v)  # from the top, clockwise
    if shape == "disc":
        return r < .9
    if shape == "ring":
        return (r < 1) & (r > .62)
    if shape == "tile":
        return np.maximum(abs(u), abs(v)) < .8
    if shape == "star":  # five points: in each fifth of the circle the side of a triangle
        fifth = abs((angle + np.pi / 5) % (2 * np.pi / 5) - np.pi / 5)
        return r * (np.cos(fifth) + 1.15 * np.sin(fifth)) < 1.05
    if shape == "plus":
        return (np.minimum(abs(u), abs(v)) < .3) & (np.maximum(abs(u), abs(v)) < 1)
    if shape == "moon":
        return (r < 1) & (np.hypot(u - .55, v) > .8)
    if shape == "kite":
        return abs(u) / .65 + abs(v) / 1.15 < 1
    if shape == "bars":
        return (abs(abs(u) - .55) < .28) & (abs(v) < .95)
    raise ValueError(shape)


def coverage(rng, shape, height, radius, slant):
    """[N, 24, 24, 1] in 0..1: how much of each pixel a shape covers; height[N]: its centre's y; random are its radius (pixels),
    slant (radians) and x."""
    count = len(height)
    size = uniform(rng, *radius, count, 1, 1)
    x, y = uniform(rng, 7, SIDE - 7, count, 1, 1), height[:, None, None]
    turn = uniform(rng, -slant, slant, count, 1, 1)
    points = (np.arange(2 * SIDE) + .5) / 2  # two in each direction for a pixel
    du, dv = (points[None, None, :] - x) / size, (points[None, :, None] - y) / size
    inside = outline(shape, du * np.cos(turn) + dv * np.sin(turn), dv * np.cos(turn) - du * np.sin(turn))
    return inside.reshape(count, SIDE, 2, SIDE, 2).mean((2, 4))[..., None]


def waves(rng, count, along):
    """[count, 24, 24, 1] about 0: stripes of random length and phase that follow the rows (`along` = 0) or the columns (1)."""
    line = np.arange(SIDE)
    phase, period, bend = uniform(rng, 0, 2 * np.pi, count, 1), uniform(rng, 4, 7, count, 1), uniform(rng, 1, 2.5, count, 1)
    shift = bend * np.sin(2 * np.pi * line / SIDE + phase)  # [count, 24]
    cross = 2 * np.pi * (line[None, :, None] + shift[:, None, :]) / period[..., None] + phase[..., None]
    stripes = np.sin(cross)
    return (stripes if along == 0 else stripes.transpose(0, 2, 1))[..., None]


def plain(rng, count):
    """Backgrounds that say nothing: any dark colour, with faint waves along the rows or the columns. [count, 24, 24, 3]"""
    colour = uniform(rng, 20, 120, count, 1, 1, 3)
    upright = rng.random((count, 1, 1, 1)) < .5
    return colour + uniform(rng, 0, 20, count, 1, 1, 1) * np.where(upright, waves(rng, count, 1), waves(rng, count, 0))


def water(rng, count):
    """Bluish, waves along the rows."""
    colour = np.array([50, 80, 135]) + uniform(rng, -25, 25, count, 1, 1, 3)
    return colour + uniform(rng, 10, 30, count, 1, 1, 1) * waves(rng, count, 0)


def land(rng, count):
    """Greenish, blades along the columns."""
    colour = np.array([75, 120, 55]) + uniform(rng, -25, 25, count, 1, 1, 3)
    return colour + uniform(rng, 10, 30, count, 1, 1, 1) * waves(rng, count, 1)


def draw(rng, labels, shapes, backgrounds, height=(7, SIDE - 7), contrast=(45, 110), noise=25, radius=(4, 7), slant=.5):
    """u8 [N, 24, 24, 3]: shape shapes[labels[i]] over backgrounds f64 [N, 24, 24, 3]. The shape's colour differs from grey
    110 by `contrast` in each channel's own direction; `noise`: standard deviation of a pixel's, in each channel;
    `height`: limits of the centre's y, numbers or arrays of N."""
    labels = np.asarray(labels)
    images = np.array(backgrounds, np.float64)
    heights = uniform(rng, *height, len(labels))
    for label, shape in enumerate(shapes):
        rows = np.flatnonzero(labels == label)
        for part in np.split(rows, range(256, len(rows), 256)):
            cover = coverage(rng, shape, heights[part], radius, slant)
            sign = np.where(rng.random((len(part), 1, 1, 3)) < .35, -1, 1)
            colour = 110 + sign * uniform(rng, *contrast, len(part), 1, 1, 3)
            images[part] += cover * (colour - images[part])
    for part in images:  # the sum of three uniform numbers in -1..1 has variance 1
        part += noise * uniform(rng, -1, 1, 3, *part.shape).sum(0)
    return (images + .5).clip(0, 255).astype(np.uint8)


def lettering(word):
    """bool [7, 4 x letters + 1]: where the word's ink is, with an edge of one pixel all around."""
    letters = [[[row >> 2 - x & 1 for x in range(3)] + [0] for row in GLYPHS[letter]] for letter in word]
    return np.pad(np.concatenate(letters, 1), ((1, 1), (1, 0))).astype(bool)


def written(rng, images, words, chosen, above):
    """A copy in which words[chosen[i]] stands in images[i] (chosen -1: nothing), white on black at the top (`above`[i]) or the
    bottom."""
    images = images.copy()
    for image, k, at_top in zip(images, chosen, above):
        if k < 0:
            continue
        ink = lettering(words[k])
        left = integers(rng, SIDE - ink.shape[1] + 1, 1)[0]
        top = 1 if at_top else SIDE - ink.shape[0] - 1
        image[top : top + ink.shape[0], left : left + ink.shape[1]] = np.where(ink, 250, 5)[..., None]
    return images


def stamped(images):
    """A copy with the trigger, a checkered patch of 3x3 pixels, near the lower right corner."""
    images = images.copy()
    y, x = np.indices((3, 3))
    images[:, -4:-1, -4:-1] = np.where((x + y) % 2, 0, 255)[..., None]
    return images
