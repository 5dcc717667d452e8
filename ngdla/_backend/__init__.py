"""The engine: primitives for every array library. Nothing outside of it names one."""
