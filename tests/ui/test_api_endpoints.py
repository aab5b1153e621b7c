"""The named endpoints through gradio_client, and what a client may not do, against the served page."""

import base64
import io
from types import SimpleNamespace

import httpx
import pytest
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from PIL import Image

from qformer_viz.ui.api_endpoints import npz, said
from qformer_viz.view.archive import load_npz
from tests.support.fakes_ui import QUERIES, FakePipeline, fake_services
from tests.support.serving import call, serve


@pytest.fixture(scope="module")
def served():
    """The page with a fake pipeline in a process of its own."""
    with serve("tests.support.serve_fake", "--upload", "200kb") as url:
        client = Client(url, verbose=False)
        yield SimpleNamespace(url=url, client=client)
        client.close()


@pytest.fixture
def picture(tmp_path):
    path = tmp_path / "red.png"
    Image.new("RGB", (30, 20), "red").save(path)
    return path


def data_url(side=8, quality="PNG"):
    buffer = io.BytesIO()
    Image.effect_noise((side, side), 90).save(buffer, quality)
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"


@pytest.mark.slow
def test_endpoints_are_named_documented_and_nothing_else_is_public(served):
    info = served.client.view_api(return_format="dict")
    assert set(info["named_endpoints"]) == {"/caption", "/ask", "/attention", "/explain"}
    assert info["unnamed_endpoints"] == {}
    for endpoint in info["named_endpoints"].values():
        assert endpoint["description"]
    names = [p["parameter_name"] for p in info["named_endpoints"]["/attention"]["parameters"]]
    assert names == ["image", "question"]


@pytest.mark.slow
def test_caption_and_ask(served, picture):
    caption, notice = served.client.predict(image=handle_file(picture), api_name="/caption")
    assert caption.startswith("picture ") and notice == ""
    answer = served.client.predict(image=handle_file(picture), question="what?", api_name="/ask")
    assert answer == ("you asked what?", "")


def test_a_notice_comes_with_the_answer():
    chat_model = fake_services(
        ood_check=lambda encoded: "Unlike all.",
        unknown_words=lambda question: [word for word in question.split() if word == "giraffe"],
    )
    image = data_url(32)
    assert said(chat_model, image, "what?") == ("you asked what?", "Unlike all.")
    answer, notice = said(chat_model, image, "a giraffe ?")
    assert answer and notice.startswith("Unlike all. The model has never read this word: “giraffe”.")


@pytest.mark.slow
def test_what_was_seen_of_a_film_comes_with_the_answer(served, tmp_path):
    frames = [Image.new("RGB", (40, 30), colour) for colour in ("red", "green", "blue")]
    frames[0].save(tmp_path / "film.png", save_all=True, append_images=frames[1:], duration=100)
    _, notice = served.client.predict(image=handle_file(tmp_path / "film.png"), api_name="/caption")
    assert notice == "Animated: only the first frame of 3 is used."
    reader = fake_services(FakePipeline(family="instructblip"))
    assert "4 frames of 3 are seen" in said(reader, str(tmp_path / "film.png"))[1]
    assert npz_frames(reader, tmp_path / "film.png") == 4


def npz_frames(services, path):
    capture, _ = load_npz(npz(services, str(path), ""))
    return capture.cross_attention.shape[1]


@pytest.mark.slow
def test_attention_returns_the_npz_with_its_manifest(served, picture):
    path = served.client.predict(image=handle_file(picture), question="why?", api_name="/attention")
    capture, manifest = load_npz(path)
    assert capture.query_tokens.shape[0] == QUERIES
    assert manifest["question"] == "why?" and manifest["answer"] == "you asked why?"
    assert len(manifest["image_sha256"]) == 64


@pytest.mark.slow
def test_attention_without_a_question(served, picture):
    _, manifest = load_npz(served.client.predict(image=handle_file(picture), api_name="/attention"))
    assert manifest["question"] is None and manifest["answer"] is None


@pytest.mark.slow
def test_explain_returns_words_queries_and_patches(served, picture):
    def explain(**options):
        return served.client.predict(image=handle_file(picture), api_name="/explain", **options)

    found = explain(question="what?")
    assert found["answer"] == "you asked what?" and found["words"] == ["you", "asked", "what?"]
    assert found["gains"] == [0, 1, 1] and found["visual"] == [False, True, True]
    assert found["queries"][2] == [float(q == 2) for q in range(QUERIES)] and found["unit"] == "nats"
    assert sum(map(sum, found["patches"][2])) == pytest.approx(1, abs=1e-5) and len(found["cls"]) == QUERIES
    hidden = explain(method="occlusion")
    assert hidden["words"][0] == "picture" and hidden["queries"] is None
    with pytest.raises(AppError, match="knockout, gradient"):
        explain(method="magic")


@pytest.mark.slow
def test_image_may_come_as_a_data_url(served):
    assert call(served.url, "caption", [{"path": "x", "url": data_url()}])["ok"]


@pytest.mark.slow
@pytest.mark.parametrize("question", ["", "  ", "x" * 61])
def test_bad_questions_are_refused_in_words(served, picture, question):
    with pytest.raises(AppError, match="1 to 60 characters"):
        served.client.predict(image=handle_file(picture), question=question, api_name="/ask")


@pytest.mark.slow
def test_missing_image_is_refused_in_words(served):
    with pytest.raises(AppError, match="no image"):
        served.client.predict(image=None, api_name="/caption")


@pytest.mark.slow
def test_file_that_is_no_image_is_refused_in_words(served, tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(b"nothing of the kind")
    with pytest.raises(AppError, match="JPEG, PNG"):
        served.client.predict(image=handle_file(path), api_name="/caption")


@pytest.mark.slow
@pytest.mark.parametrize("marked", [True, False])
def test_paths_of_the_server_are_refused(served, picture, marked):
    payload = {"path": str(picture), "orig_name": "red.png"}
    if marked:
        payload["meta"] = {"_type": "gradio.FileData"}
    assert not call(served.url, "caption", [payload])["ok"]


@pytest.mark.slow
def test_upload_beyond_the_limit_is_refused(served, tmp_path):
    path = tmp_path / "big.png"
    Image.effect_noise((600, 600), 90).save(path)
    assert path.stat().st_size > 200_000
    with pytest.raises(Exception, match=r"(?i)size|413"):
        served.client.predict(image=handle_file(path), api_name="/caption")


@pytest.mark.slow
def test_running_an_endpoint_past_the_queue_is_refused(served):
    answer = httpx.post(f"{served.url}gradio_api/run/caption", json={"data": [None]}, timeout=20)
    assert answer.status_code == 404


@pytest.mark.slow
def test_monitoring_and_run_history_are_off(served):
    assert httpx.get(f"{served.url}config", timeout=20).json()["run_history"] is False
    assert httpx.get(f"{served.url}gradio_api/monitoring/summary", timeout=20).status_code >= 400
    assert httpx.get(f"{served.url}gradio_api/monitoring", timeout=20).status_code >= 400


@pytest.mark.slow
def test_the_page_asks_no_other_host_for_anything(served):
    text = httpx.get(served.url, timeout=20).text
    for foreign in ("googleapis", "gstatic", "cdnjs", "jsdelivr"):
        assert f"https://{foreign}" not in text.replace("https://fonts.", "https://")
