import { LabIcon } from '@jupyterlab/ui-components';

function icon(name: string, body: string): LabIcon {
  return new LabIcon({
    name: `jupyter-vsandbox:${name}`,
    svgstr: `<svg xmlns="http://www.w3.org/2000/svg" width="16" viewBox="0 0 24 24"><g class="jp-icon3" fill="#616161">${body}</g></svg>`
  });
}

/** A machine in a box. */
export const sandboxIcon = icon(
  'sandbox',
  '<path d="M12 1.6 21 6.4v11.2l-9 4.8-9-4.8V6.4zM12 3.9 6.3 6.9 12 9.9l5.7-3zM5 8.5v7.9l6 3.2v-7.9zm14 0-6 3.2v7.9l6-3.2z"/>'
);

export const snapshotIcon = icon(
  'snapshot',
  '<path d="M9.2 4 7.7 6H4a2 2 0 0 0-2 2v10a2 2 0 0 0 2 2h16a2 2 0 0 0 2-2V8a2 2 0 0 0-2-2h-3.7l-1.5-2zM4 8h16v10H4zm8 .8a4.2 4.2 0 1 0 0 8.4 4.2 4.2 0 0 0 0-8.4zm0 2a2.2 2.2 0 1 1 0 4.4 2.2 2.2 0 0 1 0-4.4z"/>'
);

export const forkIcon = icon(
  'fork',
  '<path d="M6 2.5a3 3 0 0 0-1 5.8V15.7a3 3 0 1 0 2 0V13h7a4 4 0 0 0 4-4v-.7a3 3 0 1 0-2 0V9a2 2 0 0 1-2 2H7V8.3a3 3 0 0 0-1-5.8zm0 2a1 1 0 1 1 0 2 1 1 0 0 1 0-2zm11 0a1 1 0 1 1 0 2 1 1 0 0 1 0-2zm-11 13a1 1 0 1 1 0 2 1 1 0 0 1 0-2z"/>'
);

export const rollbackIcon = icon(
  'rollback',
  '<path d="M12.5 4a8 8 0 0 0-7.4 5L3 7v6h6L6.6 10.6A6 6 0 1 1 8 16.4l-1.4 1.4A8 8 0 1 0 12.5 4zM12 8v5l4 2.4.8-1.3-3.3-2V8z"/>'
);

export const diffIcon = icon(
  'diff',
  '<path d="M11 3v4H7v2h4v4h2V9h4V7h-4V3zM7 17v2h10v-2z"/>'
);

export const hibernateIcon = icon(
  'hibernate',
  '<path d="M12.7 3A9 9 0 1 0 21 14.3 7.5 7.5 0 0 1 12.7 3zm-3 2.9A9.5 9.5 0 0 0 17.4 16.5 7 7 0 1 1 9.7 5.9z"/>'
);
