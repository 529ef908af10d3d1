# A server of OpenAI's speech API.
#
#   docker build -t distilwhisper .                                     for a CPU
#   docker build -t distilwhisper --build-arg TORCH=cu128 .             for CUDA
#   docker build -t distilwhisper --build-arg MODEL=openai/whisper-base .   with a model inside
#
#   docker run -p 127.0.0.1:8000:8000 -v ./students:/models:ro distilwhisper --model /models/NAME
FROM python:3.12-slim AS build
ARG TORCH=cpu
WORKDIR /build
COPY pyproject.toml README.md LICENSE ./
COPY src ./src
RUN python -m venv /venv \
    && /venv/bin/pip install --no-cache-dir torch torchaudio \
        --index-url "https://download.pytorch.org/whl/$TORCH" \
    && /venv/bin/pip install --no-cache-dir ".[serve]"

FROM python:3.12-slim
ARG MODEL=
COPY --from=build /venv /venv
RUN useradd --create-home --uid 10001 speech
USER speech
WORKDIR /home/speech
ENV PATH=/venv/bin:$PATH PYTHONUNBUFFERED=1
RUN if [ -n "$MODEL" ]; then \
        distilwhisper import "$MODEL" /home/speech/model; \
    fi
EXPOSE 8000
HEALTHCHECK --interval=10s --start-period=120s --retries=3 CMD \
    ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/health')"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["distilwhisper", "serve", "--host", "0.0.0.0", "--preload"]
CMD ["--model", "/home/speech/model"]
