"""Memory that comes back, and only when nobody looks at it."""

import gc
import pickle
import threading

import numpy as np

from data_pipelines.buffers import Buffers


def address(array):
    return array.__array_interface__["data"][0]


def test_memory_comes_back_when_the_last_view_is_gone():
    buffers = Buffers()
    array = buffers.take((4, 8, 8, 3))
    array[:] = 7
    place = address(array)
    view = array.reshape(2, 2, 8, 8, 3)[1][0, ::2]
    raw = memoryview(array)
    del array
    gc.collect()
    other = buffers.take((4, 8, 8, 3))
    other[:] = 9
    assert address(other) != place
    assert (view == 7).all()
    del view
    assert address(buffers.take((4, 8, 8, 3))) != place
    del raw
    again = buffers.take((4, 8, 8, 3))
    assert address(again) == place
    assert again.flags.writeable and again.flags.c_contiguous and again.dtype == np.uint8


def test_sizes_do_not_mix_and_copies_start_empty():
    buffers = Buffers()
    buffers.take((6,))
    assert buffers.take((7,)).shape == (7,)
    assert buffers.take((2, 3)).shape == (2, 3)
    assert pickle.loads(pickle.dumps(buffers)).take((5,)).shape == (5,)


def test_threads_never_share_memory():
    buffers, wrong = Buffers(), []

    def work(mark):
        for _ in range(300):
            array = buffers.take((1000,))
            array[:] = mark
            if (array != mark).any():
                wrong.append(mark)

    threads = [threading.Thread(target=work, args=(k,)) for k in range(8)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not wrong
