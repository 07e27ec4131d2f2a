# Images of quorumkv: target "operator" and target "node".
#
#   docker build --target node -t quorumkv-node .
#
# Where the base image cannot be pulled, tests/cluster/image.sh takes static
# binaries built outside and joins them with the last part of this file.

# A musl distribution: programs built here are static. The compiler is this image's
# (rust-toolchain.toml stays out, see .dockerignore), or rustup would fetch a second one.
FROM rust:1.95-alpine AS chef
RUN apk add --no-cache musl-dev gcc make
RUN cargo install cargo-chef --version ^0.1 --locked
WORKDIR /src

# What the dependencies are, without the sources: this layer changes only when they do.
FROM chef AS plan
COPY . .
RUN cargo chef prepare --recipe-path recipe.json

FROM chef AS build
COPY --from=plan /src/recipe.json recipe.json
RUN cargo chef cook --release --locked --recipe-path recipe.json \
    --bin quorumkv-node --bin quorumkv-operator
COPY . .
RUN cargo build --release --locked --bin quorumkv-node --bin quorumkv-operator \
    && mkdir /out \
    && cp target/release/quorumkv-node target/release/quorumkv-operator /out/

# Images. One static program each: no shell, no libraries, no package manager.
FROM scratch AS operator
COPY --from=build /out/quorumkv-operator /usr/local/bin/quorumkv-operator
ENV PATH=/usr/local/bin
# Numeric, because Kubernetes cannot tell that a name is not root.
USER 65532:65532
ENTRYPOINT ["/usr/local/bin/quorumkv-operator"]

FROM scratch AS node
COPY --from=build /out/quorumkv-node /usr/local/bin/quorumkv-node
ENV PATH=/usr/local/bin
USER 65532:65532
EXPOSE 5000 5100 9100
ENTRYPOINT ["/usr/local/bin/quorumkv-node"]
