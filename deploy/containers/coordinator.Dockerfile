# The coordinator and the commands, without libtorch. From the root of the source tree:
#   docker build -f deploy/containers/coordinator.Dockerfile -t mtinet-coordinator .
FROM rust:1.95-slim-bookworm AS build
RUN apt-get update \
    && apt-get install --yes --no-install-recommends gcc g++ libc6-dev \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY . .
RUN cargo build --release --locked -p mtinet && strip target/release/mtinet

FROM debian:bookworm-slim
RUN useradd --system --uid 10001 --home-dir /var/lib/mtinet --create-home mtinet
COPY --from=build /src/target/release/mtinet /usr/local/bin/mtinet
COPY LICENSE-MIT LICENSE-APACHE /usr/share/doc/mtinet/
USER 10001:10001
WORKDIR /var/lib/mtinet
# The event log, the artifacts and the keys: keep it on a volume, on a local disk.
VOLUME /var/lib/mtinet
EXPOSE 7077
# Commands in the container (docker exec, kubectl exec) reach the coordinator as its operator.
ENV MTINET_COORDINATOR=/var/lib/mtinet
HEALTHCHECK --interval=15s --timeout=10s --start-period=30s CMD ["mtinet", "status", "--json"]
ENTRYPOINT ["mtinet"]
CMD ["coordinator", "--data-dir", "/var/lib/mtinet", "--listen", "0.0.0.0:7077"]
