from acestep.lora.metadata import HEADER_KEY, AdapterMetadata, Parent, TrainedWith, metadata_from_header


def test_a_record_survives_its_header():
    metadata = AdapterMetadata(
        trained=TrainedWith(rank=8, alpha=3.5, rslora=True),
        family="v1",
        parents=(Parent(sha256="ab", name="vocal", weight=-0.3),),
        method="ties",
    )
    assert metadata_from_header({HEADER_KEY: metadata.model_dump_json()}) == metadata


def test_what_a_newer_program_added_is_passed_over():
    assert metadata_from_header({HEADER_KEY: '{"family": "v1", "mood": "blue"}'}).family == "v1"


def test_a_header_of_another_program_or_a_broken_one_says_nothing():
    for header in ({"format": "pt"}, {HEADER_KEY: "{"}, {HEADER_KEY: '{"recommended_strength": "loud"}'}):
        assert metadata_from_header(header) == AdapterMetadata()
