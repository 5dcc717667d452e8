"""What ngdla does on a GPU: times, accuracy, memory, and questions that only a device answers.

`python -m asv_benchmarks.gpu` from the root of a checkout runs all of it.
"""
