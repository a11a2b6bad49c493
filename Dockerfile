FROM rust:1.95-slim-bookworm AS build
WORKDIR /src
COPY . .
RUN cargo build --release --locked --bin trunkline

FROM debian:bookworm-slim
RUN useradd --system --uid 10001 --no-create-home --shell /usr/sbin/nologin trunkline
COPY --from=build /src/target/release/trunkline /usr/local/bin/trunkline
COPY LICENSE /usr/share/doc/trunkline/LICENSE
USER trunkline
EXPOSE 6432 9127
# The configuration is mounted here; its [listen] http is on port 9127.
HEALTHCHECK --interval=5s --timeout=3s --start-period=30s --retries=3 \
    CMD ["bash", "-c", "exec 3<>/dev/tcp/127.0.0.1/9127 && printf 'GET /readyz HTTP/1.0\\r\\n\\r\\n' >&3 && head -n 1 <&3 | grep -q ' 200 '"]
ENTRYPOINT ["trunkline"]
CMD ["serve", "/etc/trunkline/trunkline.toml"]
