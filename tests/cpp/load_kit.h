// A model opened and loaded in one go.
#pragma once

#include "plan/plan.h"

namespace warpjet {

struct LoadedModel {
  Plan plan;
  Weights weights;
  LoadReport report;
};

inline LoadedModel load_model(const std::filesystem::path& path, const LoadOptions& options, const Catalogs& catalogs,
                              Device& device) {
  OpenedModel opened = open_model(path, options, catalogs, device.info());
  LoadedModel model;
  model.report = load_weights(opened, device, model.weights);
  model.plan = std::move(opened.plan);
  return model;
}

}  // namespace warpjet
