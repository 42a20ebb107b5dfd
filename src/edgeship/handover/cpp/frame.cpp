// A raw RGB or grey image to the network's input, and raw outputs to predictions: what a vehicle's program does before
// and after the engine. Also what the tests compare with edgeship's Python.
//
//   frame input WIDTH HEIGHT CHANNELS < pixels > float32 input
//   frame boxes IMAGE_WIDTH IMAGE_HEIGHT ROWS < float32 output > lines: x1 y1 x2 y2 score class
//   frame scores < float32 output > lines: probability of each class

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <iostream>
#include <iterator>
#include <string>

#include "edgeship/decode.hpp"
#include "edgeship/image.hpp"
#include "edgeship/settings.hpp"
#include "edgeship/timing.hpp"

namespace {

std::vector<float> floats(const std::string& bytes) {
    std::vector<float> values(bytes.size() / sizeof(float));
    std::memcpy(values.data(), bytes.data(), values.size() * sizeof(float));
    return values;
}

int run(int argc, char** argv) {
    const std::string kind = argc > 1 ? argv[1] : "";
    const std::string bytes{std::istreambuf_iterator<char>(std::cin), {}};
    edgeship::FrameClock clock(33.0);
    clock.begin();
    if (kind == "input" && argc == 5) {
        edgeship::Image image{std::atoi(argv[2]), std::atoi(argv[3]), std::atoi(argv[4]), {bytes.begin(), bytes.end()}};
        const edgeship::Prepared made = edgeship::prepare(image, edgeship::settings());
        std::cout.write(reinterpret_cast<const char*>(made.values.data()),
                        static_cast<std::streamsize>(made.values.size() * sizeof(float)));
    } else if (kind == "boxes" && argc == 5) {
        edgeship::Geometry geometry;
        edgeship::Image blank{std::atoi(argv[2]), std::atoi(argv[3]), 3, {}};
        blank.pixels.resize(static_cast<std::size_t>(blank.width) * blank.height * 3);
        edgeship::place(blank, edgeship::settings(), geometry);
        const std::vector<float> values = floats(bytes);
        for (const edgeship::Box& box : edgeship::decode(values.data(), std::strtoul(argv[4], nullptr, 10), geometry))
            std::printf("%.9g %.9g %.9g %.9g %.9g %d\n", box.x1, box.y1, box.x2, box.y2, box.score, box.label);
    } else if (kind == "scores" && argc == 2) {
        const std::vector<float> values = floats(bytes);
        for (float value : edgeship::probabilities(values.data(), values.size())) std::printf("%.9g\n", value);
    } else {
        std::fprintf(stderr, "frame input W H C | frame boxes W H ROWS | frame scores\n");
        return 2;
    }
    std::fprintf(stderr, "%.3f ms, %zu of %zu frames late\n", clock.end(), clock.missed(), clock.frames());
    return 0;
}

}  // namespace

int main(int argc, char** argv) {
    try {
        return run(argc, argv);
    } catch (const std::exception& error) {
        std::fprintf(stderr, "%s\n", error.what());
        return 1;
    }
}
