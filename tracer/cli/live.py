"""x"""
from tracer.cli.options import CaptureOptions, takes

@takes(CaptureOptions)
def live(options: CaptureOptions) -> None:
    """x"""
