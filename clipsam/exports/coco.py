"""COCO JSON: images, categories (the types of defects) and one annotation per region, its mask as COCO's RLE.

Input: a run. Output: a dictionary for `json.dump`, as `pycocotools.coco.COCO` and other tools read it. Each
annotation has its `score`; images have `score` and `decision`.
"""

from __future__ import annotations

from typing import Any

from clipsam.exports.inspected import InspectedRun


def coco_of(run: InspectedRun) -> dict[str, Any]:
    """The run as a COCO data set. Boxes are x, y, width, height in pixels."""
    numbers = {defect: number for number, defect in enumerate(run.defects, start=1)}
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number, photo in enumerate(run, start=1):
        images.append(
            {
                "id": number,
                "file_name": photo.name,
                "width": photo.width,
                "height": photo.height,
                "score": photo.row["score"],
                "decision": photo.decision,
            }
        )
        for region in photo.row["regions"]:
            x0, y0, x1, y1 = region["box_xyxy"]
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": numbers[region["defect"]],
                    "bbox": [x0, y0, x1 - x0, y1 - y0],
                    "area": region["area_px"],
                    "segmentation": region["rle"],
                    "iscrowd": 0,
                    "score": region["score"],
                }
            )
    story = {
        "description": f"{run.manifest.get('product', 'object')}: regions found by clipsam, not by people",
        "version": run.manifest.get("clipsam"),
        "date_created": run.manifest.get("started"),
    }
    categories = [{"id": n, "name": name, "supercategory": "defect"} for name, n in numbers.items()]
    return {"info": story, "images": images, "categories": categories, "annotations": annotations}
