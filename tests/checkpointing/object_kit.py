"""Object stores whose every call can be watched, failed, or died at."""

from checkpointing.storage.object_files import ObjectFiles


class Proxy:
    """A filesystem that tells of each call, before and after it is made."""

    def __init__(self, filesystem, before, after):
        self._filesystem, self._before, self._after = filesystem, before, after
        self.num_calls = 0
        self.fetched = []

    def invalidate_cache(self):
        self._filesystem.invalidate_cache()

    def open(self, path, *args, **kwargs):
        stream = self._filesystem.open(path, *args, **kwargs)
        return Stream(self, stream, path)

    def __getattr__(self, name):
        return lambda path, *args, **kwargs: self.call(
            name, path, lambda: getattr(self._filesystem, name)(path, *args, **kwargs)
        )

    def call(self, name, path, action):
        number = self.num_calls
        self.num_calls += 1
        self._before(number, name, path)
        try:
            result = action()
        finally:  # a call that finds nothing is one too
            self._after(number, name, path)
        if name == "cat_file":
            self.fetched.append(len(result))
        return result


class Stream:
    def __init__(self, proxy, stream, path):
        self._proxy, self._stream, self._path = proxy, stream, path

    def write(self, data):
        return self._proxy.call("write", self._path, lambda: self._stream.write(data))

    def close(self):
        return self._proxy.call("close", self._path, self._stream.close)


class Failing(ObjectFiles):
    def __init__(self, place, before, after=lambda *call: None):
        self.proxy = Proxy(place.files._filesystem, before, after)
        super().__init__(self.proxy, puts_whole=place.files._puts_whole)
