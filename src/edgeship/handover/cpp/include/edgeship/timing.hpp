// How long frames take: quantiles of the last ones, and deadlines missed.
#pragma once

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstddef>
#include <deque>
#include <vector>

namespace edgeship {

class FrameClock {
public:
    explicit FrameClock(double budgetMs, std::size_t window = 4096) : budgetMs_(budgetMs), window_(window) {}

    void begin() { begun_ = std::chrono::steady_clock::now(); }

    // Milliseconds since begin(); counts the frame, and the deadline where it was missed.
    double end() {
        const std::chrono::duration<double, std::milli> taken = std::chrono::steady_clock::now() - begun_;
        note(taken.count());
        return taken.count();
    }

    void note(double ms) {
        ++frames_;
        if (ms > budgetMs_) ++missed_;
        last_.push_back(ms);
        if (last_.size() > window_) last_.pop_front();
    }

    std::size_t frames() const { return frames_; }
    std::size_t missed() const { return missed_; }

    // The smallest time that at least `share` of the last frames do not exceed; 0 before the first one.
    double quantile(double share) const {
        if (last_.empty()) return 0.0;
        std::vector<double> sorted(last_.begin(), last_.end());
        std::sort(sorted.begin(), sorted.end());
        const auto rank = static_cast<std::size_t>(std::ceil(share * static_cast<double>(sorted.size())));
        return sorted[std::max<std::size_t>(rank, 1) - 1];
    }

private:
    double budgetMs_;
    std::size_t window_;
    std::size_t frames_ = 0;
    std::size_t missed_ = 0;
    std::chrono::steady_clock::time_point begun_{};
    std::deque<double> last_;
};

}  // namespace edgeship
