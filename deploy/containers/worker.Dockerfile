# A worker with its trainers and libtorch. From the root of the source tree:
#   docker build -f deploy/containers/worker.Dockerfile -t mtinet-worker .
#   docker build -f deploy/containers/worker.Dockerfile --build-arg CUDA=1 -t mtinet-worker:cuda .
# The CUDA image needs the NVIDIA container runtime on the host; it brings no driver.
FROM rust:1.95-slim-bookworm AS build
ARG CUDA=0
RUN apt-get update \
    && apt-get install --yes --no-install-recommends gcc g++ libc6-dev make python3 python3-pip \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY . .
RUN make install CUDA=${CUDA} PREFIX=/opt/mtinet

FROM debian:bookworm-slim
RUN apt-get update \
    && apt-get install --yes --no-install-recommends libstdc++6 tini \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --system --uid 10001 --home-dir /var/lib/mtinet-worker --create-home mtinet
COPY --from=build /opt/mtinet /opt/mtinet
COPY LICENSE-MIT LICENSE-APACHE /usr/share/doc/mtinet/
USER 10001:10001
WORKDIR /var/lib/mtinet-worker
ENV PATH=/opt/mtinet/bin:$PATH \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility \
    MTINET_WORKER__WORK_DIR=/var/lib/mtinet-worker \
    MTINET_WORKER__DATA_ROOT=/data \
    MTINET_WORKER__STOP_GRACE=60s
# The identity that a token bought, caches and unsent reports.
VOLUME /var/lib/mtinet-worker
# tini collects what trainers leave; the agent alone gets the signal to end.
ENTRYPOINT ["tini", "--", "mtinet-worker"]
