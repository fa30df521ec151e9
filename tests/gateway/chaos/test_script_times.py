from gateway.chaos.script_times import script_times


async def test_each_script_is_timed_with_one_window_and_with_three() -> None:
    times = await script_times(batches=2)

    assert [name.partition(" at ")[0] for name in times] == ["reserve", "reserve", "settle", "settle"] * 2
    assert all(figure > 0 for figure in times.values())
