"""A recorder without a GPU: what it records is run again, as it was."""


class RunAgain:
    def __init__(self):
        self.recorded, self.replays = 0, 0

    def rehearse(self, work):
        for _ in range(3):
            work()

    def record(self, work, times=1):
        self.recorded += 1

        def replay():
            self.replays += 1
            for _ in range(times):
                work()

        return replay

    def pace(self):
        pass


class Refuses(RunAgain):
    def record(self, work, times=1):
        raise RuntimeError("operation not permitted when stream is capturing\nand more")
