"""MTT's replay buffers as experts: files in the layout of its buffer.py, from a network written here after its own."""

import pytest
import torch
from torch import nn

from ddaudit.distillation import distill, resolve
from ddaudit.distillation.expert_paths import ExpertPaths
from ddaudit.distillation.loops import Job
from ddaudit.errors import BadInput

STUDENT = {
    "loop.iterations": 2,
    "loop.steps": 2,
    "loop.span": 1,
    "loop.starts.last": 2,
    "networks.arch": "ConvNetD2W8",
    "networks.width": None,
}


class PublicConvNet(nn.Module):
    """ConvNet-2 of width 8 as mtt-distillation's networks.py lays it out: features, then classifier."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for width_in in (channels, 8):
            layers += [
                nn.Conv2d(width_in, 8, kernel_size=3, padding=1),
                nn.GroupNorm(8, 8, affine=True),
                nn.ReLU(inplace=True),
                nn.AvgPool2d(kernel_size=2, stride=2),
            ]
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Linear(8 * 2 * 2, classes)

    def forward(self, x):
        out = self.features(x)
        return self.classifier(out.view(out.size(0), -1))


def trajectory(seed, passes=3):
    """[(epochs + 1) lists of parameters], as buffer.py keeps them; on a CPU it would keep one and the same."""
    torch.manual_seed(seed)
    net = PublicConvNet(3, 4)
    points = [[p.detach().clone() for p in net.parameters()]]
    for _ in range(passes):
        with torch.no_grad():
            for p in net.parameters():
                p += 0.1 * torch.randn_like(p)
        points.append([p.detach().clone() for p in net.parameters()])
    return points, net


@pytest.fixture
def buffers(tmp_path):
    """Two files of two paths each; file 10 comes after file 2."""
    nets, paths = zip(*[trajectory(k)[::-1] for k in range(4)], strict=True)
    torch.save(list(paths[:2]), tmp_path / "replay_buffer_2.pt")
    torch.save(list(paths[2:]), tmp_path / "replay_buffer_10.pt")
    return tmp_path, paths, nets


def job(data, store=None):
    everyone = torch.ones(1, len(data.train), dtype=torch.bool)
    return Job(data.train, everyone, data, 1, 0, torch.device("cpu"), store=store)


def read(data, where, **options):
    part = ExpertPaths("ConvNetD2W8", buffers=str(where), **options)
    return part.learn(job(data), *resolve("mtt").constants(data))


def test_points_are_the_file_s_in_order_and_compute_what_the_public_network_does(tiny, buffers):
    where, paths, nets = buffers
    found = read(tiny, where)
    assert (found.count, found.epochs) == (4, 3)
    net = found.make(shape=tiny.shape, num_classes=4, seed=0, device=torch.device("cpu"))
    x = torch.randn(5, *tiny.shape, generator=torch.Generator().manual_seed(0))
    for expert in range(4):
        for time in range(4):
            point = found.paths.at(expert, time)
            in_order = [point[n] for n, _ in net.body.named_parameters()]
            for ours, theirs in zip(in_order, paths[expert][time], strict=True):
                assert torch.equal(ours, theirs)
        net.body.load_state_dict(point)
        torch.testing.assert_close(net.body(x), nets[expert](x))


def test_straight_paths_end_where_the_file_s_do(tiny, buffers):
    where, paths, _ = buffers
    found = read(tiny, where, straight=True, count=1)
    assert found.count == 1
    point = found.paths.at(0, 3)
    for ours, theirs in zip(
        sorted(map(torch.sum, point.values())), sorted(map(torch.sum, paths[0][3])), strict=True
    ):
        torch.testing.assert_close(ours, theirs)


def test_a_set_is_distilled_on_experts_of_files(tiny, buffers):
    where, _, _ = buffers
    recipe = resolve("mtt", profile="small", options=STUDENT | {"networks.buffers": str(where)})
    card = distill(recipe, tiny.train, data=tiny, ipc=1, seed=0).card
    assert "the paths of 3 experts, 4 checkpoints each" in card.notes[0]


def test_a_file_is_read_once(tiny, buffers, tmp_path, monkeypatch):
    from ddaudit.distillation import buffers as module
    from ddaudit.distillation.store import FolderStore

    where, paths, _ = buffers
    store = FolderStore(tmp_path / "store")
    part = ExpertPaths("ConvNetD2W8", buffers=str(where))
    part.learn(job(tiny, store), *resolve("mtt").constants(tiny))
    monkeypatch.setattr(module, "read_weights", None)
    again = part.learn(job(tiny, store), *resolve("mtt").constants(tiny))
    assert torch.equal(again.paths.at(3, 2)["classifier.bias"], paths[3][2][-1])


def test_a_run_on_a_part_of_the_records_is_refused(tiny, buffers):
    work = job(tiny)
    work.members[0, 5] = False
    part = ExpertPaths("ConvNetD2W8", buffers=str(buffers[0]))
    with pytest.raises(BadInput, match="have seen all records"):
        part.learn(work, *resolve("mtt").constants(tiny))


class Shout:
    def __reduce__(self):
        return print, ("executed",)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ([trajectory(0)[0][:1]], "no list of two points"),
        ([trajectory(0)[0][:1] * 2], "does not move"),
        ([[p[:-1] for p in trajectory(0)[0]]], "not the network's 10 parameters"),
        ([[1, 2]], "not the network's 10 parameters"),
        ([[[torch.full_like(p, torch.nan) for p in q] for q in trajectory(0)[0]]], "no finite numbers"),
        ({"a": 1}, "no list of paths"),
        ([trajectory(0)[0], trajectory(1, 2)[0]], "different lengths"),
        ([Shout()], "holds more than weights"),
    ],
)  # fmt: skip
def test_what_is_no_buffer_is_refused(tiny, tmp_path, capsys, content, words):
    file = tmp_path / "replay_buffer_0.pt"
    torch.save(content, file)
    with pytest.raises(BadInput, match=words):
        read(tiny, file)
    assert "executed" not in capsys.readouterr().out


def test_a_folder_without_buffers_is_refused(tiny, tmp_path):
    with pytest.raises(BadInput, match="holds no replay_buffer_N"):
        read(tiny, tmp_path)
