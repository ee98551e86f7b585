# docker build -t esker:dev .
FROM rust:1.95-bookworm AS build
WORKDIR /src
COPY . .
RUN cargo build --locked --release --bin esker \
 && mkdir -p /out/data /out/bin \
 && cp target/release/esker docker/esker-in-compose /out/bin/ \
 && cp /etc/ssl/certs/ca-certificates.crt /out/

FROM debian:bookworm-slim
COPY --from=build /out/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY --from=build /out/bin/ /usr/local/bin/
# Whoever runs it may write there, and nowhere else.
COPY --from=build --chown=10001:10001 /out/data /var/lib/esker
USER 10001:10001
WORKDIR /var/lib/esker
EXPOSE 9092 9094 9096
STOPSIGNAL SIGTERM
ENTRYPOINT ["esker"]
CMD ["serve", "--data-dir", "/var/lib/esker"]
