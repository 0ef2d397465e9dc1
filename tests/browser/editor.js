// Read what Label Studio's editor holds and draws. Runs in its page before its own scripts; see editor.py.
(() => {
  const shown = () => window.Htx?.annotationStore?.selected;
  const regions = () => [...(shown()?.regions ?? []), ...(shown()?.suggestions?.values() ?? [])];
  const regionOf = id => regions().find(region => region.cleanId === id);
  const imageOf = () => [...(shown()?.names?.values() ?? [])].find(tag => tag.type === "image");
  const nodesOf = region => region.parent.stageRef.find(
    node => node.id() === region.cleanId || node.name().split(" ").includes(region.id));

  // The image in the coordinates of its stage.
  function frame(image) {
    const {x, y} = image.layerZoomScalePosition;
    return {x, y, width: image.stageWidth * image.zoomScale, height: image.stageHeight * image.zoomScale};
  }

  // The Konva nodes that make up a region's area, without outlines, handles and labels.
  function areas(region) {
    const nodes = nodesOf(region);
    if (region.type === "brushregion") return nodes.filter(node => node.getClassName() === "Layer");
    const shapes = nodes.flatMap(node => node.getChildren ? node.find("Shape") : [node]);
    if (region.type === "bitmaskregion") return shapes.filter(shape => shape.getClassName() === "Image");
    if (region.type === "polygonregion") return shapes.filter(shape => shape.closed?.() && shape.fill());
    if (region.type === "vectorregion") return shapes.filter(
      shape => ["Path", "Shape"].includes(shape.getClassName()) && shape.fill?.());
    return shapes;
  }

  function isDrawn(region) {
    const nodes = nodesOf(region);
    if (!nodes.length) return false;
    // A suggested correction has the id of its region, which has no image where it was painted by hand.
    if (region.type === "brushregion") return !region.rle?.length || nodes.some(node => node.findOne?.("Image")?.image());
    if (region.type === "bitmaskregion") return !region.imageDataURL || !!region.bbox;
    return areas(region).length > 0;
  }

  // Konva draws the area again, in the image's own pixels; a pixel is drawn where it is at least half as opaque as any.
  function drawn(id) {
    const region = regionOf(id);
    const [width, height] = [region.parent.naturalWidth, region.parent.naturalHeight];
    const at = frame(region.parent);
    const canvas = document.createElement("canvas");
    [canvas.width, canvas.height] = [width, height];
    const context = canvas.getContext("2d", {willReadFrequently: true});
    for (const node of areas(region)) {
      const kept = node.fill ? {fill: node.fill(), strokeEnabled: node.strokeEnabled()} : {};
      const highlight = node.findOne?.(".highlight");  // of a brush that is selected
      highlight?.hide();
      if (node.fill) node.setAttrs({fill: kept.fill && "black", strokeEnabled: false});
      context.drawImage(node.toCanvas({...at, pixelRatio: width / at.width}), 0, 0, width, height);
      node.setAttrs(kept);
      highlight?.show();
    }
    const pixels = context.getImageData(0, 0, width, height).data;
    let most = 0;
    for (let n = 3; n < pixels.length; n += 4) most = Math.max(most, pixels[n]);
    const bits = new Uint8Array(Math.ceil(width * height / 8));
    for (let n = 0; n < width * height; n++) {
      if (most && 2 * pixels[4 * n + 3] >= most) bits[n >> 3] |= 0x80 >> (n & 7);
    }
    let text = "";
    for (let n = 0; n < bits.length; n += 8192) text += String.fromCharCode(...bits.subarray(n, n + 8192));
    return [width, height, btoa(text)];
  }

  window.zeromask = {
    // Whether a task is open, with its image and at least so many regions drawn.
    opened(task, count) {
      const [image, found] = [imageOf(), regions()];
      return String(window.Htx?.task?.id) === String(task) && image?.naturalWidth > 1 && image.stageRef
        && found.length >= count && found.every(isDrawn);
    },
    regions: () => regions().map(region => ({
      id: region.cleanId, type: region.type, origin: region.origin, label: region.labelName ?? "",
      suggestion: !!shown().suggestions?.has(region.id),
    })),
    drawn,
    suggested: () => regions().some(region => shown().suggestions.has(region.id) && isDrawn(region)),
    // Whether what a smart tool was answered with is there, and drawn.
    answered: () => !window.Htx.awaitingSuggestions && regions().every(isDrawn),
    selected: number => regions()[number].inSelection,
    setHidden(id, hidden) {
      const region = regionOf(id);
      if (region.hidden !== hidden) region.toggleHidden();
    },
    // Where the image lies in the window: left, top, and the window's pixels of one of the image's.
    place() {
      const image = imageOf();
      const [at, box] = [frame(image), image.stageRef.container().getBoundingClientRect()];
      return {left: box.left + at.x, top: box.top + at.y, width: at.width, height: at.height,
              scale: at.width / image.naturalWidth};
    },
    values: id => shown().serializeAnnotation().filter(row => row.id === id).map(row => row.value),
    frames: () => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done))),
  };
})();
