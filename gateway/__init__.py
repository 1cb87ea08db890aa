"""The ingress that makes a release safe."""

from gateway import hot
from gateway.version import VERSION

hot.install()

__version__ = VERSION
