"""What the chaos suite repeats of the product, which it may not import."""

from chaos.cluster import power
from mq9cluster.storage import store


def test_the_names_that_power_loss_relies_on_are_those_of_the_store() -> None:
    assert power.DATABASE_FOLDER == store.DATABASE_FOLDER
    assert power.RECORD_FILE == store.RECORD_FILE
    assert power.RECORDING == {store.RECORD_VARIABLE: "1"}
    assert power.WITHOUT_SYNC == {store.UNSAFE_VARIABLE: "1"}
