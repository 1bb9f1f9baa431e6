// The whole public API of Warpjet, and the one place that holds its version.
#pragma once

#define WARPJET_VERSION_MAJOR 0
#define WARPJET_VERSION_MINOR 1
#define WARPJET_VERSION_PATCH 0
#define WARPJET_VERSION "0.1.0"

#include <warpjet/backend.h>
#include <warpjet/config.h>
#include <warpjet/engine.h>
#include <warpjet/error.h>
#include <warpjet/fields.h>
#include <warpjet/log.h>
#include <warpjet/measure.h>
#include <warpjet/simulate.h>
#include <warpjet/snapshot.h>
#include <warpjet/tensor.h>
#include <warpjet/vocabulary.h>
