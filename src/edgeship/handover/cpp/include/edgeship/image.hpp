// From pixels to the network's input, as edgeship's Python does it: Pillow's resampling in fixed point, then (pixel * scale - mean) / std in float. Equal to a grey level (bicubic and lanczos: two), since Pillow 13 resizes some images
// along the height first; compile with -ffp-contract=off.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

namespace edgeship {

enum class Fit { centerCrop, letterbox, stretch };
enum class Filter { nearest, box, bilinear, bicubic, lanczos, opencvBilinear };
enum class Color { rgb, bgr, gray };

// uint8 pixels, row by row, `channels` interleaved: 3 (RGB) or 1.
struct Image {
    int width = 0;
    int height = 0;
    int channels = 3;
    std::vector<std::uint8_t> pixels;
};

struct Preprocess {
    Fit fit = Fit::stretch;
    int height = 0;
    int width = 0;
    double cropFraction = 0.875;
    double padValue = 114.0;
    bool padCentered = true;
    Filter filter = Filter::bilinear;
    Color color = Color::rgb;
    float scale = 1.0f;
    std::vector<float> mean{0.0f};  // one value, or one for each channel in the order of `color`
    std::vector<float> std{1.0f};
    bool channelsFirst = true;
};

// Where an image lies in the network's input: input = image * scale + offset.
struct Geometry {
    int height = 0;
    int width = 0;
    int inputHeight = 0;
    int inputWidth = 0;
    double scaleX = 1.0;
    double scaleY = 1.0;
    double left = 0.0;
    double top = 0.0;
};

struct Prepared {
    std::vector<float> values;
    Geometry geometry;
};

namespace detail {

constexpr int precisionBits = 32 - 8 - 2;
constexpr double pi = 3.14159265358979323846;

inline double support(Filter filter) {
    switch (filter) {
        case Filter::box: return 0.5;
        case Filter::bilinear: return 1.0;
        case Filter::bicubic: return 2.0;
        default: return 3.0;
    }
}

inline double sinc(double x) { return x == 0.0 ? 1.0 : std::sin(x * pi) / (x * pi); }

inline double weight(Filter filter, double x) {
    switch (filter) {
        case Filter::box: return x > -0.5 && x <= 0.5 ? 1.0 : 0.0;
        case Filter::bilinear: x = std::fabs(x); return x < 1.0 ? 1.0 - x : 0.0;
        case Filter::bicubic: {
            constexpr double a = -0.5;
            x = std::fabs(x);
            if (x < 1.0) return ((a + 2.0) * x - (a + 3.0)) * x * x + 1;
            return x < 2.0 ? (((x - 5) * x + 8) * x - 4) * a : 0.0;
        }
        default: return -3.0 <= x && x < 3.0 ? sinc(x) * sinc(x / 3) : 0.0;
    }
}

// The source pixels that make each output pixel, and their weights in fixed point.
struct Taps {
    int first = 0;
    std::vector<int> weights;
};

inline std::vector<Taps> taps(int from, int to, Filter filter) {
    const double scale = static_cast<double>(from) / to;
    const double stretch = std::max(scale, 1.0);
    const double reach = support(filter) * stretch;
    std::vector<Taps> found(static_cast<std::size_t>(to));
    for (int place = 0; place < to; ++place) {
        const double center = (place + 0.5) * scale;
        const int low = std::max(static_cast<int>(center - reach + 0.5), 0);
        const int high = std::min(static_cast<int>(center + reach + 0.5), from);
        std::vector<double> values;
        double sum = 0.0;
        for (int x = low; x < high; ++x) {
            values.push_back(weight(filter, (x - center + 0.5) * (1.0 / stretch)));
            sum += values.back();
        }
        Taps& taps = found[static_cast<std::size_t>(place)];
        taps.first = low;
        for (double value : values) {
            if (sum != 0.0) value /= sum;
            taps.weights.push_back(static_cast<int>((value < 0 ? -0.5 : 0.5) + value * (1 << precisionBits)));
        }
    }
    return found;
}

inline std::uint8_t clip(int sum) { return static_cast<std::uint8_t>(std::clamp(sum >> precisionBits, 0, 255)); }

// One axis: `lines` rows of `from` pixels at `stride`, to `to` pixels.
inline Image resampled(const Image& image, int to, bool alongWidth, Filter filter) {
    Image made{alongWidth ? to : image.width, alongWidth ? image.height : to, image.channels, {}};
    made.pixels.resize(static_cast<std::size_t>(made.width) * made.height * made.channels);
    const std::vector<Taps> all = taps(alongWidth ? image.width : image.height, to, filter);
    const auto at = [](const Image& in, int y, int x) {
        return (static_cast<std::size_t>(y) * in.width + x) * in.channels;
    };
    for (int y = 0; y < made.height; ++y) {
        for (int x = 0; x < made.width; ++x) {
            const Taps& own = all[static_cast<std::size_t>(alongWidth ? x : y)];
            for (int channel = 0; channel < made.channels; ++channel) {
                int sum = 1 << (precisionBits - 1);
                for (std::size_t tap = 0; tap < own.weights.size(); ++tap) {
                    const int source = own.first + static_cast<int>(tap);
                    const std::size_t place = alongWidth ? at(image, y, source) : at(image, source, x);
                    sum += image.pixels[place + channel] * own.weights[tap];
                }
                made.pixels[at(made, y, x) + channel] = clip(sum);
            }
        }
    }
    return made;
}

// The source pixel of each output pixel. Pillow adds the step up, so its rounding is that of the sums.
inline std::vector<int> steps(int from, int to) {
    std::vector<int> found;
    const double step = static_cast<double>(from) / to;
    double place = step * 0.5;
    for (int out = 0; out < to; ++out, place += step) found.push_back(std::min(static_cast<int>(place), from - 1));
    return found;
}

inline Image nearest(const Image& image, int width, int height) {
    const std::vector<int> rows = steps(image.height, height), columns = steps(image.width, width);
    Image made{width, height, image.channels, {}};
    made.pixels.resize(static_cast<std::size_t>(width) * height * image.channels);
    for (int y = 0; y < height; ++y) {
        const int fromY = rows[static_cast<std::size_t>(y)];
        for (int x = 0; x < width; ++x) {
            const int fromX = columns[static_cast<std::size_t>(x)];
            for (int channel = 0; channel < image.channels; ++channel) {
                made.pixels[(static_cast<std::size_t>(y) * width + x) * image.channels + channel] =
                    image.pixels[(static_cast<std::size_t>(fromY) * image.width + fromX) * image.channels + channel];
            }
        }
    }
    return made;
}

// For each output pixel of one axis: both source pixels and their weights, in OpenCV's fixed point (2048 is 1).
struct Pair {
    int first = 0;
    int second = 0;
    int before = 0;
    int after = 0;
};

inline std::vector<Pair> pairs(int from, int to, bool inside) {
    std::vector<Pair> found;
    const double scale = static_cast<double>(from) / to;
    for (int out = 0; out < to; ++out) {
        const auto place = static_cast<float>((out + 0.5) * scale - 0.5);
        const int first = static_cast<int>(std::floor(place));
        float share = place - static_cast<float>(first);
        if (inside && (first < 0 || first >= from - 1)) share = 0.0f;
        found.push_back({std::clamp(first, 0, from - 1), std::clamp(first + 1, 0, from - 1),
                         static_cast<int>(std::nearbyint((1.0f - share) * 2048.0f)),
                         static_cast<int>(std::nearbyint(share * 2048.0f))});
    }
    return found;
}

// OpenCV's INTER_LINEAR: two pixels in each direction, also where the image shrinks.
inline Image opencvBilinear(const Image& image, int width, int height) {
    const std::vector<Pair> rows = pairs(image.height, height, false), columns = pairs(image.width, width, true);
    Image made{width, height, image.channels, {}};
    made.pixels.resize(static_cast<std::size_t>(width) * height * image.channels);
    for (int y = 0; y < height; ++y) {
        const Pair& row = rows[static_cast<std::size_t>(y)];
        for (int x = 0; x < width; ++x) {
            const Pair& column = columns[static_cast<std::size_t>(x)];
            for (int channel = 0; channel < image.channels; ++channel) {
                const auto along = [&](int line) {
                    const std::size_t begin = static_cast<std::size_t>(line) * image.width;
                    return (image.pixels[(begin + column.first) * image.channels + channel] * column.before +
                            image.pixels[(begin + column.second) * image.channels + channel] * column.after) >> 4;
                };
                const int value = ((along(row.first) * row.before) >> 16) + ((along(row.second) * row.after) >> 16);
                made.pixels[(static_cast<std::size_t>(y) * width + x) * image.channels + channel] =
                    static_cast<std::uint8_t>((value + 2) >> 2);
            }
        }
    }
    return made;
}

inline Image gray(const Image& image) {
    if (image.channels == 1) return image;
    Image made{image.width, image.height, 1, {}};
    made.pixels.reserve(static_cast<std::size_t>(image.width) * image.height);
    for (std::size_t place = 0; place < image.pixels.size(); place += 3) {
        const unsigned sum = image.pixels[place] * 19595u + image.pixels[place + 1] * 38470u +
                             image.pixels[place + 2] * 7471u + 0x8000u;
        made.pixels.push_back(static_cast<std::uint8_t>(sum >> 16));
    }
    return made;
}

inline Image colored(const Image& image) {
    if (image.channels == 3) return image;
    Image made{image.width, image.height, 3, {}};
    made.pixels.reserve(image.pixels.size() * 3);
    for (std::uint8_t value : image.pixels) made.pixels.insert(made.pixels.end(), {value, value, value});
    return made;
}

// The part of `image` that begins at (left, top), on a canvas of one value.
inline Image placed(const Image& image, int width, int height, int left, int top, std::uint8_t value) {
    Image made{width, height, image.channels, {}};
    made.pixels.assign(static_cast<std::size_t>(width) * height * image.channels, value);
    for (int y = std::max(top, 0); y < std::min(top + image.height, height); ++y) {
        for (int x = std::max(left, 0); x < std::min(left + image.width, width); ++x) {
            for (int channel = 0; channel < image.channels; ++channel) {
                made.pixels[(static_cast<std::size_t>(y) * width + x) * image.channels + channel] =
                    image.pixels[(static_cast<std::size_t>(y - top) * image.width + (x - left)) * image.channels +
                                 channel];
            }
        }
    }
    return made;
}

inline int even(double value) { return static_cast<int>(std::nearbyint(value)); }

}  // namespace detail

// Pillow's resize: along the width first, with a filter that widens where the image shrinks; or OpenCV's.
inline Image resize(const Image& image, int width, int height, Filter filter) {
    if (image.width == width && image.height == height) return image;
    if (filter == Filter::nearest) return detail::nearest(image, width, height);
    if (filter == Filter::opencvBilinear) return detail::opencvBilinear(image, width, height);
    Image made = image.width == width ? image : detail::resampled(image, width, true, filter);
    return image.height == height ? made : detail::resampled(made, height, false, filter);
}

// uint8 at the size of the network's input, and where the image lies in it.
inline Image place(const Image& given, const Preprocess& steps, Geometry& geometry) {
    if (given.width < 1 || given.height < 1 || (given.channels != 1 && given.channels != 3) ||
        given.pixels.size() != static_cast<std::size_t>(given.width) * given.height * given.channels)
        throw std::invalid_argument("an image needs 1 or 3 channels of uint8, width * height * channels of them");
    Image image = steps.color == Color::gray ? detail::gray(given) : given;
    const int w = image.width, h = image.height;
    geometry = {h, w, steps.height, steps.width, 1.0, 1.0, 0.0, 0.0};
    int newW = steps.width, newH = steps.height, left = 0, top = 0;
    if (steps.fit == Fit::letterbox) {
        const double ratio = std::min(static_cast<double>(steps.width) / w, static_cast<double>(steps.height) / h);
        newW = std::min(steps.width, std::max(1, detail::even(w * ratio)));
        newH = std::min(steps.height, std::max(1, detail::even(h * ratio)));
        if (steps.padCentered) left = (steps.width - newW) / 2, top = (steps.height - newH) / 2;
    } else if (steps.fit == Fit::centerCrop) {
        const long targetW = static_cast<long>(steps.width / steps.cropFraction);
        const long targetH = static_cast<long>(steps.height / steps.cropFraction);
        if (targetW * h >= targetH * w) {
            newW = static_cast<int>(targetW), newH = static_cast<int>(std::max(targetH, targetW * h / w));
        } else {
            newW = static_cast<int>(std::max(targetW, targetH * w / h)), newH = static_cast<int>(targetH);
        }
        left = -detail::even((newW - steps.width) / 2.0), top = -detail::even((newH - steps.height) / 2.0);
    }
    Image fitted = resize(image, newW, newH, steps.filter);
    geometry.scaleX = static_cast<double>(newW) / w, geometry.scaleY = static_cast<double>(newH) / h;
    geometry.left = left, geometry.top = top;
    const auto pad = static_cast<std::uint8_t>(detail::even(steps.padValue));
    if (newW != steps.width || newH != steps.height)
        fitted = detail::placed(fitted, steps.width, steps.height, left, top, pad);
    return steps.color == Color::gray ? fitted : detail::colored(fitted);
}

// One image's input, [C, H, W] or [H, W, C] in float.
inline Prepared prepare(const Image& image, const Preprocess& steps) {
    Prepared made;
    const Image fitted = place(image, steps, made.geometry);
    const std::size_t channels = fitted.channels, area = static_cast<std::size_t>(fitted.width) * fitted.height;
    made.values.resize(area * channels);
    for (std::size_t channel = 0; channel < channels; ++channel) {
        const std::size_t from = steps.color == Color::bgr ? channels - 1 - channel : channel;
        const float mean = steps.mean.size() == 1 ? steps.mean[0] : steps.mean.at(channel);
        const float std = steps.std.size() == 1 ? steps.std[0] : steps.std.at(channel);
        for (std::size_t pixel = 0; pixel < area; ++pixel) {
            float value = static_cast<float>(fitted.pixels[pixel * channels + from]);
            value *= steps.scale;
            value -= mean;
            value /= std;
            made.values[steps.channelsFirst ? channel * area + pixel : pixel * channels + channel] = value;
        }
    }
    return made;
}

}  // namespace edgeship
