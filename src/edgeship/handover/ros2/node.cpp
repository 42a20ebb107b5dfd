// A ROS 2 node around edgeship's frame: pictures in, detections out, deadlines counted. A template: infer() is yours,
// with the engine's own library (docs/how-to/cpp.md shows TensorRT's).

#include <memory>
#include <rclcpp/rclcpp.hpp>
#include <sensor_msgs/msg/image.hpp>
#include <string>
#include <vision_msgs/msg/detection2_d_array.hpp>

#include "edgeship/decode.hpp"
#include "edgeship/image.hpp"
#include "edgeship/settings.hpp"
#include "edgeship/timing.hpp"

namespace {

// Give the network's first output for its input: rows (anchors or detections) and their values.
std::vector<float> infer(const std::vector<float>& input, std::size_t& rows);

edgeship::Image pixels(const sensor_msgs::msg::Image& message) {
    const int channels = message.encoding == "mono8" ? 1 : 3;
    if (message.encoding != "rgb8" && message.encoding != "bgr8" && channels != 1)
        throw std::invalid_argument("the encoding " + message.encoding + " is not rgb8, bgr8 or mono8");
    edgeship::Image image{static_cast<int>(message.width), static_cast<int>(message.height), channels, {}};
    image.pixels.reserve(static_cast<std::size_t>(message.width) * message.height * channels);
    for (std::size_t row = 0; row < message.height; ++row) {
        const auto begin = message.data.begin() + static_cast<std::ptrdiff_t>(row * message.step);
        image.pixels.insert(image.pixels.end(), begin, begin + static_cast<std::ptrdiff_t>(message.width * channels));
    }
    if (message.encoding == "bgr8")
        for (std::size_t place = 0; place < image.pixels.size(); place += 3)
            std::swap(image.pixels[place], image.pixels[place + 2]);
    return image;
}

class Node : public rclcpp::Node {
public:
    Node() : rclcpp::Node("edgeship"), clock_(declare_parameter("budget_ms", 33.0)) {
        publisher_ = create_publisher<vision_msgs::msg::Detection2DArray>("detections", rclcpp::SensorDataQoS());
        subscription_ = create_subscription<sensor_msgs::msg::Image>(
            "image", rclcpp::SensorDataQoS().keep_last(1),
            [this](sensor_msgs::msg::Image::ConstSharedPtr message) { take(*message); });
    }

private:
    void take(const sensor_msgs::msg::Image& message) {
        clock_.begin();
        const edgeship::Prepared made = edgeship::prepare(pixels(message), edgeship::settings());
        std::size_t rows = 0;
        const std::vector<float> output = infer(made.values, rows);
        vision_msgs::msg::Detection2DArray found;
        found.header = message.header;
        for (const edgeship::Box& box : edgeship::decode(output.data(), rows, made.geometry)) {
            vision_msgs::msg::Detection2D one;
            one.bbox.center.position.x = (box.x1 + box.x2) / 2;
            one.bbox.center.position.y = (box.y1 + box.y2) / 2;
            one.bbox.size_x = box.x2 - box.x1;
            one.bbox.size_y = box.y2 - box.y1;
            one.results.resize(1);
            one.results[0].hypothesis.class_id = edgeship::classes().at(static_cast<std::size_t>(box.label));
            one.results[0].hypothesis.score = box.score;
            found.detections.push_back(one);
        }
        publisher_->publish(found);
        clock_.end();
        if (clock_.frames() % 1000 == 0)
            RCLCPP_INFO(get_logger(), "p99 %.2f ms, %zu of %zu frames late", clock_.quantile(0.99), clock_.missed(),
                        clock_.frames());
    }

    edgeship::FrameClock clock_;
    rclcpp::Publisher<vision_msgs::msg::Detection2DArray>::SharedPtr publisher_;
    rclcpp::Subscription<sensor_msgs::msg::Image>::SharedPtr subscription_;
};

}  // namespace

int main(int argc, char** argv) {
    rclcpp::init(argc, argv);
    rclcpp::spin(std::make_shared<Node>());
    rclcpp::shutdown();
}
