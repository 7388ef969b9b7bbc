"""A trace in Perfetto's protobuf form, for ui.perfetto.dev: processes, threads and CPUs as tracks.

Track events (https://perfetto.dev/docs/reference/synthetic-track-event). Times are CLOCK_MONOTONIC ns.
"""

from collections.abc import Iterator

from perfetto.protos.perfetto.trace import perfetto_trace_pb2 as proto

from bitnet_trace.analysis.trace import Series, Trace, Track, Wakeups

_SEQUENCE = 1
_MONOTONIC = 3
_CHUNK = 4096
_PROCESS, _PHASES, _THREAD, _CPU, _CPUS, _SERIES = (kind << 56 for kind in range(1, 7))


def chunks(trace: Trace) -> Iterator[bytes]:
    """The file in pieces."""
    gathered = proto.Trace()
    for packet in _packets(trace):
        gathered.packet.append(packet)
        if len(gathered.packet) == _CHUNK:
            yield gathered.SerializeToString()
            gathered = proto.Trace()
    yield gathered.SerializeToString()


def track_id(track: Track) -> int:
    """The uuid of a track's row."""
    if track.kind == "cpu":
        return _CPU + track.tid
    if track.kind == "thread":
        return _THREAD + track.tid
    return _PHASES + (track.pid << 32) + track.tid + 1


def _packets(trace: Trace) -> Iterator[proto.TracePacket]:
    names: dict[str, int] = {}
    first = _packet()
    first.sequence_flags = proto.TracePacket.SEQ_INCREMENTAL_STATE_CLEARED
    first.trace_packet_defaults.timestamp_clock_id = _MONOTONIC
    yield first
    yield from _processes(trace)
    for track in trace.tracks:
        yield _described(track)
    for track in trace.tracks:
        yield from _slices(track, names)
    for number, series in enumerate(trace.series):
        yield from _series(series, _SERIES + number)
    yield from _wakeups(trace.wakeups, names)


def _packet(ts_ns: int | None = None) -> proto.TracePacket:
    packet = proto.TracePacket()
    packet.trusted_packet_sequence_id = _SEQUENCE
    packet.sequence_flags = proto.TracePacket.SEQ_NEEDS_INCREMENTAL_STATE
    if ts_ns is not None:
        packet.timestamp = ts_ns
    return packet


def _processes(trace: Trace) -> Iterator[proto.TracePacket]:
    for pid, name in trace.processes.items():
        packet = _packet()
        packet.track_descriptor.uuid = _PROCESS + pid
        packet.track_descriptor.process.pid = pid
        packet.track_descriptor.process.process_name = name
        yield packet
    if any(track.kind == "cpu" for track in trace.tracks):
        packet = _packet()
        packet.track_descriptor.uuid = _CPUS
        packet.track_descriptor.name = "CPUs"
        yield packet


def _described(track: Track) -> proto.TracePacket:
    packet = _packet()
    descriptor = packet.track_descriptor
    descriptor.uuid = track_id(track)
    if track.kind == "thread":
        descriptor.thread.pid = track.pid
        descriptor.thread.tid = track.tid
        descriptor.thread.thread_name = track.name
    else:
        descriptor.name = track.name
        descriptor.parent_uuid = _CPUS if track.kind == "cpu" else _PROCESS + track.pid
    return packet


def _slices(track: Track, names: dict[str, int]) -> Iterator[proto.TracePacket]:
    uuid, slices = track_id(track), track.slices
    for code, begin_ns, end_ns in zip(
        slices.name.tolist(), slices.begin_ns.tolist(), slices.end_ns.tolist(), strict=True
    ):
        packet = _packet(begin_ns)
        packet.track_event.type = proto.TrackEvent.TYPE_SLICE_BEGIN
        packet.track_event.track_uuid = uuid
        _name(packet, slices.names[code], names)
        yield packet
        packet = _packet(end_ns)
        packet.track_event.type = proto.TrackEvent.TYPE_SLICE_END
        packet.track_event.track_uuid = uuid
        yield packet


def _name(packet: proto.TracePacket, name: str, names: dict[str, int]) -> None:
    """By number; the first time with its text."""
    number = names.get(name)
    if number is None:
        number = names[name] = len(names) + 1
        interned = packet.interned_data.event_names.add()
        interned.iid, interned.name = number, name
    packet.track_event.name_iid = number


def _series(series: Series, uuid: int) -> Iterator[proto.TracePacket]:
    packet = _packet()
    descriptor = packet.track_descriptor
    descriptor.uuid, descriptor.parent_uuid, descriptor.name = uuid, _PROCESS + series.pid, series.name
    unit = proto.CounterDescriptor.UNIT_SIZE_BYTES if series.unit == "bytes" else proto.CounterDescriptor.UNIT_COUNT
    descriptor.counter.unit = unit
    yield packet
    for ts_ns, value in zip(series.ts_ns.tolist(), series.values.tolist(), strict=True):
        packet = _packet(ts_ns)
        packet.track_event.type = proto.TrackEvent.TYPE_COUNTER
        packet.track_event.track_uuid = uuid
        packet.track_event.counter_value = value
        yield packet


def _wakeups(wakeups: Wakeups, names: dict[str, int]) -> Iterator[proto.TracePacket]:
    """An instant where a thread wakes another, one where that runs, and the arrow between them."""
    columns = (wakeups.ts_ns, wakeups.waker, wakeups.woken, wakeups.runs_ns)
    for number, (ts_ns, waker, woken, runs_ns) in enumerate(zip(*(one.tolist() for one in columns), strict=True), 1):
        for at_ns, tid, name in ((ts_ns, waker, "wakes"), (runs_ns, woken, "woken")):
            packet = _packet(at_ns)
            packet.track_event.type = proto.TrackEvent.TYPE_INSTANT
            packet.track_event.track_uuid = _THREAD + tid
            _name(packet, name, names)
            (packet.track_event.flow_ids if name == "wakes" else packet.track_event.terminating_flow_ids).append(number)
            yield packet
