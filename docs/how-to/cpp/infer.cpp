// Load the raw engine of a bundle with TensorRT alone, run it once on zeros, print the first values of each output.
//
//   g++ -std=c++17 -O2 infer.cpp -o infer -lnvinfer -lcudart
//   ./infer bundle/engine.engine

#include <NvInfer.h>
#include <cuda_runtime_api.h>

#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <memory>
#include <string>
#include <vector>

namespace {

class Logger : public nvinfer1::ILogger {
    void log(Severity severity, char const* text) noexcept override {
        if (severity <= Severity::kWARNING) std::fprintf(stderr, "%s\n", text);
    }
};

void check(cudaError_t code) {
    if (code == cudaSuccess) return;
    std::fprintf(stderr, "CUDA: %s\n", cudaGetErrorString(code));
    std::exit(1);
}

std::size_t bytesOf(nvinfer1::DataType type) {
    switch (type) {
        case nvinfer1::DataType::kINT64: return 8;
        case nvinfer1::DataType::kFLOAT:
        case nvinfer1::DataType::kINT32: return 4;
        case nvinfer1::DataType::kHALF:
        case nvinfer1::DataType::kBF16: return 2;
        case nvinfer1::DataType::kINT8:
        case nvinfer1::DataType::kFP8:
        case nvinfer1::DataType::kUINT8:
        case nvinfer1::DataType::kBOOL: return 1;
        default: std::fprintf(stderr, "a tensor of another type\n"); std::exit(1);
    }
}

std::size_t volume(nvinfer1::Dims const& dims) {
    std::size_t count = 1;
    for (int axis = 0; axis < dims.nbDims; ++axis) {
        if (dims.d[axis] < 0) {
            std::fprintf(stderr, "a shape that only the data decides needs an IOutputAllocator\n");
            std::exit(1);
        }
        count *= static_cast<std::size_t>(dims.d[axis]);
    }
    return count;
}

}  // namespace

int main(int argc, char** argv) {
    if (argc != 2) {
        std::fprintf(stderr, "usage: %s ENGINE\n", argv[0]);
        return 2;
    }
    std::ifstream file(argv[1], std::ios::binary);
    std::vector<char> plan((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
    if (plan.empty()) {
        std::fprintf(stderr, "%s cannot be read\n", argv[1]);
        return 2;
    }

    Logger logger;
    std::unique_ptr<nvinfer1::IRuntime> runtime{nvinfer1::createInferRuntime(logger)};
    if (!runtime) return 1;
    std::unique_ptr<nvinfer1::ICudaEngine> engine{runtime->deserializeCudaEngine(plan.data(), plan.size())};
    if (!engine) {
        std::fprintf(stderr, "built for another GPU or TensorRT: edgeship rebuild BUNDLE\n");
        return 1;
    }
    std::unique_ptr<nvinfer1::IExecutionContext> context{engine->createExecutionContext()};
    if (!context) return 1;

    // Inputs first: the shapes of the outputs follow from them.
    for (int index = 0; index < engine->getNbIOTensors(); ++index) {
        char const* name = engine->getIOTensorName(index);
        if (engine->getTensorIOMode(name) != nvinfer1::TensorIOMode::kINPUT) continue;
        auto const shape = engine->getProfileShape(name, 0, nvinfer1::OptProfileSelector::kOPT);
        if (!context->setInputShape(name, shape)) return 1;
    }

    std::vector<void*> buffers;
    for (int index = 0; index < engine->getNbIOTensors(); ++index) {
        char const* name = engine->getIOTensorName(index);
        std::size_t const size = volume(context->getTensorShape(name)) * bytesOf(engine->getTensorDataType(name));
        void* buffer = nullptr;
        check(cudaMalloc(&buffer, size));
        check(cudaMemset(buffer, 0, size));  // a real program copies the preprocessed image here
        if (!context->setTensorAddress(name, buffer)) return 1;
        buffers.push_back(buffer);
    }

    cudaStream_t stream{};
    check(cudaStreamCreate(&stream));
    if (!context->enqueueV3(stream)) return 1;
    check(cudaStreamSynchronize(stream));  // before an output is read

    for (int index = 0; index < engine->getNbIOTensors(); ++index) {
        char const* name = engine->getIOTensorName(index);
        if (engine->getTensorIOMode(name) != nvinfer1::TensorIOMode::kOUTPUT) continue;
        if (engine->getTensorDataType(name) != nvinfer1::DataType::kFLOAT) continue;
        std::vector<float> values(volume(context->getTensorShape(name)));
        check(cudaMemcpy(values.data(), buffers[static_cast<std::size_t>(index)], values.size() * sizeof(float),
                         cudaMemcpyDeviceToHost));
        std::printf("%s:", name);
        for (std::size_t at = 0; at < values.size() && at < 8; ++at) std::printf(" %g", values[at]);
        std::printf("\n");
    }

    for (void* buffer : buffers) check(cudaFree(buffer));
    check(cudaStreamDestroy(stream));
    return 0;
}
