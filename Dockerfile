# Serves trained models on a CPU:
#   docker build -t nmt-serve .
#   docker run --rm -p 127.0.0.1:5000:5000 -v "$PWD/runs:/runs:ro" nmt-serve --model /runs/quickstart
FROM python:3.12-slim

# The C compiler is for the kernels, which are compiled once for the processor that they run on.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends gcc libc6-dev \
    && rm -rf /var/lib/apt/lists/*

WORKDIR /opt/nmt
COPY constraints.txt ./
# Options of pip for PyTorch alone, such as --extra-index-url with the address of its wheels for CPUs, which pip prefers:
# the others hold CUDA, of several gigabytes. (--index-url would look there for the other packages as well.)
ARG TORCH_OPTIONS=""
RUN pip install --no-cache-dir --constraint constraints.txt ${TORCH_OPTIONS} torch
COPY pyproject.toml README.md LICENSE ./
COPY nmt nmt
RUN pip install --no-cache-dir --constraint constraints.txt ".[serve,sentences,languages]"

RUN useradd --system --uid 10001 --create-home nmt
USER 10001
WORKDIR /home/nmt
EXPOSE 5000
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s \
    CMD ["python", "-c", "from urllib.request import urlopen; urlopen('http://127.0.0.1:5000/health', timeout=4)"]
# Waits for requests in progress when it is stopped: `docker stop --time 75`.
STOPSIGNAL SIGTERM
ENTRYPOINT ["nmt-serve", "--host", "0.0.0.0"]
CMD ["--help"]
