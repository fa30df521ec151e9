from budgets.news import MOST, QUIET, News


def test_a_state_is_new_once_as_long_as_it_goes_on() -> None:
    now = 0.0
    news = News(lambda: now)

    told = []
    for _ in range(5):
        told.append(news.is_new("full"))
        now += QUIET

    assert told == [True, False, False, False, False]


def test_a_state_that_comes_again_after_a_while_is_new_again() -> None:
    now = 0.0
    news = News(lambda: now)
    news.is_new("full")

    now += QUIET + 1
    assert news.is_new("full")


def test_each_state_is_news_of_its_own_and_only_so_many_are_remembered() -> None:
    news = News(lambda: 0.0)

    assert all(news.is_new(f"{number}") for number in range(MOST + 1))
    assert (news.is_new(f"{MOST}"), news.is_new("0")) == (False, True)
