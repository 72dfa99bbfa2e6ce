// Stands in for gloo's header, which the published libtorch does not carry; see context.h.
#pragma once
