# syntax=docker/dockerfile:1
# Paymaster with everything it can use. Without REDIS_URL it keeps its ledger in an embedded server under /data.
#   docker build -t paymaster . && docker run --init -p 4000:4000 -v paymaster:/data -e OPENAI_API_KEY paymaster

FROM python:3.12-slim AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PATH=/opt/paymaster/bin:$PATH
RUN python -m venv /opt/paymaster
WORKDIR /src
# The dependencies first: they change less often than the code. All of them, litellm too, by their hashes.
COPY requirements-litellm.txt ./
RUN pip install --require-hashes -r requirements-litellm.txt
COPY pyproject.toml README.md LICENSE ./
COPY gateway gateway
COPY routing routing
COPY budgets budgets
RUN pip install --no-deps .

FROM python:3.12-slim
RUN useradd --system --uid 10001 --home-dir /data --shell /usr/sbin/nologin paymaster \
    && install -d -o paymaster -g paymaster -m 0700 /data
COPY --from=build /opt/paymaster /opt/paymaster
# Mount a file of your own over this one. The admin API is not published: `docker exec … paymaster keys create …`.
COPY <<EOF /etc/paymaster/paymaster.yaml
server: {host: 0.0.0.0, port: 4000}
admin: {listen: "127.0.0.1:4001"}
EOF
ENV PATH=/opt/paymaster/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PAYMASTER_CONFIG=/etc/paymaster/paymaster.yaml \
    PAYMASTER_DATA_DIR=/data \
    PAYMASTER_URL=http://127.0.0.1:4001
USER paymaster
WORKDIR /data
VOLUME /data
EXPOSE 4000
HEALTHCHECK --interval=10s --timeout=3s --start-period=20s --retries=3 \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:4000/healthz', timeout=2)"]
ENTRYPOINT ["paymaster"]
CMD ["serve"]
