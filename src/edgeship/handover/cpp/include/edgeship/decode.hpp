// From the network's outputs to predictions, as edgeship's Python does it.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <numeric>
#include <stdexcept>
#include <vector>

#include "edgeship/image.hpp"

namespace edgeship {

struct Box {
    float x1 = 0, y1 = 0, x2 = 0, y2 = 0, score = 0;
    int label = 0;
};

struct Thresholds {
    float score = 0.001f;
    double nmsIou = 0.65;
    std::size_t most = 100;
};

// Probabilities from logits or probabilities [classes].
inline std::vector<float> probabilities(const float* values, std::size_t classes) {
    std::vector<float> made(values, values + classes);
    const float sum = std::accumulate(made.begin(), made.end(), 0.0f);
    const auto [low, high] = std::minmax_element(made.begin(), made.end());
    if (*low >= 0.0f && std::fabs(sum - 1.0f) < 0.02f) return made;
    const float most = *high;
    float total = 0.0f;
    for (float& value : made) total += value = std::exp(value - most);
    for (float& value : made) value /= total;
    return made;
}

namespace detail {

inline Box corners(const float* centered, float score, int label) {
    const float halfW = centered[2] / 2, halfH = centered[3] / 2;
    return {centered[0] - halfW, centered[1] - halfH, centered[0] + halfW, centered[1] + halfH, score, label};
}

// Greedy suppression within each class, by falling score.
inline std::vector<Box> suppressed(std::vector<Box> boxes, const Thresholds& limits, bool overlap) {
    std::stable_sort(boxes.begin(), boxes.end(), [](const Box& a, const Box& b) { return a.score > b.score; });
    std::vector<Box> kept;
    for (const Box& box : boxes) {
        if (kept.size() == limits.most) break;
        const bool covered = overlap && std::any_of(kept.begin(), kept.end(), [&](const Box& better) {
            if (better.label != box.label) return false;
            const double wide = std::min<double>(better.x2, box.x2) - std::max<double>(better.x1, box.x1);
            const double high = std::min<double>(better.y2, box.y2) - std::max<double>(better.y1, box.y1);
            const double inside = std::max(wide, 0.0) * std::max(high, 0.0);
            const double both = (static_cast<double>(better.x2) - better.x1) * (static_cast<double>(better.y2) - better.y1) +
                                (static_cast<double>(box.x2) - box.x1) * (static_cast<double>(box.y2) - box.y1);
            return inside * (1 + limits.nmsIou) > limits.nmsIou * both;
        });
        if (!covered) kept.push_back(box);
    }
    return kept;
}

// Boxes of the input in the image's own pixels, clipped; those without an area are left out.
inline std::vector<Box> inImage(const std::vector<Box>& boxes, const Geometry& g) {
    std::vector<Box> made;
    const auto moved = [](double value, double offset, double scale, double most) {
        return static_cast<float>(std::clamp((value - offset) / scale, 0.0, most));
    };
    for (Box box : boxes) {
        box.x1 = moved(box.x1, g.left, g.scaleX, g.width), box.x2 = moved(box.x2, g.left, g.scaleX, g.width);
        box.y1 = moved(box.y1, g.top, g.scaleY, g.height), box.y2 = moved(box.y2, g.top, g.scaleY, g.height);
        if (box.x2 > box.x1 && box.y2 > box.y1) made.push_back(box);
    }
    return made;
}

}  // namespace detail

// One image of YOLOX's head [anchors, 5 + classes]: the grid is applied where it has not been.
inline std::vector<Box> decodeYolox(const float* values, std::size_t anchors, std::size_t classes, const Geometry& g,
                                    const Thresholds& limits) {
    const std::vector<std::vector<int>> ladders{{8, 16, 32}, {8, 16, 32, 64}, {4, 8, 16, 32}};
    std::vector<float> cellX, cellY, stride;
    for (const std::vector<int>& ladder : ladders) {
        cellX.clear(), cellY.clear(), stride.clear();
        for (int step : ladder)
            for (int y = 0; y < g.inputHeight / step; ++y)
                for (int x = 0; x < g.inputWidth / step; ++x)
                    cellX.push_back(x), cellY.push_back(y), stride.push_back(step);
        if (cellX.size() == anchors) break;
    }
    if (cellX.size() != anchors) throw std::invalid_argument("the number of anchors fits no grid of the input");
    const std::size_t row = 5 + classes;
    std::vector<float> middle;
    for (std::size_t anchor = 0; anchor < anchors; anchor += 7) {
        middle.push_back(std::fabs(values[anchor * row]));
        middle.push_back(std::fabs(values[anchor * row + 1]));
    }
    std::sort(middle.begin(), middle.end());
    const std::size_t half = middle.size() / 2;
    const bool raw = (middle.size() % 2 ? middle[half] : (middle[half - 1] + middle[half]) / 2) < 4.0f;
    std::vector<Box> boxes;
    for (std::size_t anchor = 0; anchor < anchors; ++anchor) {
        const float* own = values + anchor * row;
        if (!(own[4] >= limits.score)) continue;
        float box[4] = {own[0], own[1], own[2], own[3]};
        if (raw) {
            box[0] = (box[0] + cellX[anchor]) * stride[anchor], box[1] = (box[1] + cellY[anchor]) * stride[anchor];
            box[2] = std::exp(std::min(box[2], 12.0f)) * stride[anchor];
            box[3] = std::exp(std::min(box[3], 12.0f)) * stride[anchor];
        }
        std::size_t best = 0;
        for (std::size_t label = 1; label < classes; ++label)
            if (own[5 + label] * own[4] > own[5 + best] * own[4]) best = label;
        const float score = own[5 + best] * own[4];
        if (score >= limits.score) boxes.push_back(detail::corners(box, score, static_cast<int>(best)));
    }
    return detail::inImage(detail::suppressed(std::move(boxes), limits, true), g);
}

// One image of Ultralytics' head [4 + classes, anchors]: every class that reaches the threshold counts.
inline std::vector<Box> decodeUltralytics(const float* values, std::size_t anchors, std::size_t classes,
                                          const Geometry& g, const Thresholds& limits) {
    std::vector<Box> boxes;
    for (std::size_t anchor = 0; anchor < anchors; ++anchor) {
        const float box[4] = {values[anchor], values[anchors + anchor], values[2 * anchors + anchor],
                              values[3 * anchors + anchor]};
        for (std::size_t label = 0; label < classes; ++label) {
            const float score = values[(4 + label) * anchors + anchor];
            if (score >= limits.score) boxes.push_back(detail::corners(box, score, static_cast<int>(label)));
        }
    }
    return detail::inImage(detail::suppressed(std::move(boxes), limits, true), g);
}

// One image of rows [detections, 6] (x1, y1, x2, y2, score, class) that have been through suppression.
inline std::vector<Box> decodeRows(const float* values, std::size_t rows, const Geometry& g, const Thresholds& limits) {
    std::vector<Box> boxes;
    for (const float* own = values; own != values + 6 * rows; own += 6) {
        if (own[4] >= limits.score && own[5] >= 0)
            boxes.push_back({own[0], own[1], own[2], own[3], own[4], static_cast<int>(std::nearbyint(own[5]))});
    }
    return detail::inImage(detail::suppressed(std::move(boxes), limits, false), g);
}

// The best class of each cell of [classes, height, width].
inline std::vector<std::int16_t> classMap(const float* values, std::size_t classes, std::size_t area) {
    std::vector<std::int16_t> made(area, 0);
    const auto [low, high] = std::minmax_element(values, values + area);
    const float middle = *low >= 0.0f && *high <= 1.0f ? 0.5f : 0.0f;  // of one channel: probabilities, or logits
    for (std::size_t cell = 0; cell < area; ++cell) {
        if (classes == 1) made[cell] = values[cell] > middle;
        for (std::size_t label = 1; label < classes; ++label)
            if (values[label * area + cell] > values[made[cell] * area + cell])
                made[cell] = static_cast<std::int16_t>(label);
    }
    return made;
}

}  // namespace edgeship
