"""The equations of docs/method.md as slow loops in float64, written from the paper and from nothing else.

Also the share by which a firing decision is safe: inputs that lie within 1e-6 of a threshold are not used in tests.
"""

import math

import numpy as np


def unit(row):
    norm = math.sqrt(sum(float(v) ** 2 for v in row))
    return [float(v) / norm for v in row] if norm > 0 else [0.0 for _ in row]


def mean_and_std(row):
    mu = sum(row) / len(row)
    return mu, math.sqrt(sum((v - mu) ** 2 for v in row) / len(row))


def firing(H, eps):
    out = []
    for row in H:
        h = unit(row)
        mu, sigma = mean_and_std(h)
        out.append([h_j > mu + eps * sigma for h_j in h])
    return out


def shares(H, eps):
    fires = firing(H, eps)
    return [100.0 * sum(row[j] for row in fires) / len(fires) for j in range(len(fires[0]))]


def discriminative(H, eps, lower=50, upper=95):
    A = shares(H, eps)
    ordered = sorted(A)

    def percentile(p):
        place = p / 100 * (len(ordered) - 1)
        below = math.floor(place)
        above = min(below + 1, len(ordered) - 1)
        return ordered[below] + (place - below) * (ordered[above] - ordered[below])

    low, high = percentile(lower), percentile(upper)
    return [j for j, share in enumerate(A) if low - 1e-9 <= share <= high + 1e-9]


def q_score(H, features, eps):
    out = []
    for row in H:
        h = unit(row)
        mu, sigma = mean_and_std(h)
        excess = [h[j] - mu for j in features if h[j] > mu + eps * sigma]
        out.append(sum(excess) / len(excess) if excess else 0.0)
    return out


def safe(H, eps, margin=1e-5):
    """Whether no entry lies within `margin` (relative to the row's std) of its threshold, and no row is flat."""
    for row in H:
        h = unit(row)
        mu, sigma = mean_and_std(h)
        if any(h) and sigma < 1e-4 * max(abs(v) for v in h):
            return False
        if sigma > 0 and any(abs(h_j - mu - eps * sigma) < margin * max(sigma, abs(mu)) for h_j in h):
            return False
    return True


def aurc_and_augrc(score, correct):
    """Mean selective error, and mean of error times coverage, over all coverages; scores without ties."""
    order = np.argsort(-np.asarray(score))
    errors, aurc, augrc = 0, 0.0, 0.0
    for k, i in enumerate(order, 1):
        errors += not correct[i]
        aurc += errors / k
        augrc += errors / len(score)
    return aurc / len(score), augrc / len(score)


def mask_iou(heat, mask, threshold=0.5, mask_threshold=0.5, weighting="heatmap"):
    """One heatmap and one mask in 0..1, as nested lists: the sum of heat in the intersection over that in the union."""
    both = either = places = 0.0
    for heat_row, mask_row in zip(heat, mask, strict=True):
        for h, m in zip(heat_row, mask_row, strict=True):
            value = h if weighting == "heatmap" else 1.0
            if h >= threshold or m >= mask_threshold:
                either += value
                places += 1
                both += value if h >= threshold and m >= mask_threshold else 0.0
    if not places:
        return math.nan
    return both / either if either else 0.0
