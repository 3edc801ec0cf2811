"""What holds for all tests."""
import os, signal

# Some tests fork this process. Torch's threads are not there in the child, and a new one that transformers starts to load
# weights looks for them in vain; so weights are loaded without threads.
os.environ['HF_DEACTIVATE_ASYNC_LOAD'] = '1'

# A shell starts what runs in the background with Ctrl-C ignored, and children inherit that: some tests press it.
signal.signal(signal.SIGINT, signal.default_int_handler)
