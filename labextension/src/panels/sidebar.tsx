import { ReactWidget, SidePanel, UseSignal } from '@jupyterlab/ui-components';
import type { ITranslator } from '@jupyterlab/translation';
import type { AccordionPanel } from '@lumino/widgets';
import React from 'react';
import { sandboxIcon } from '../components/icons';
import { HistorySection } from './history';
import { NotebookSection } from './notebook';
import { RuntimesSection } from './runtimes';
import { SandboxesSection } from './sandboxes';
import type { IPanelContext } from './section';

/** How much of the height the sections get at first. */
const SIZES = [8, 6, 4, 2];

/**
 * The sidebar: a section for the notebook in front, its history, all sandboxes and all runtimes.
 */
export class Sidebar extends SidePanel {
  constructor(context: IPanelContext, translator: ITranslator) {
    super({ translator });
    const { trans } = context;
    this.id = 'jp-vsandbox-sidebar';
    this.title.icon = sandboxIcon;
    this.title.caption = trans.__('Sandbox');
    this.node.setAttribute('role', 'region');
    this.node.setAttribute('aria-label', trans.__('Sandbox'));
    this.addClass('jp-VSandbox-sidebar');

    this.header.addWidget(new Banner(context));
    this.addWidget(new NotebookSection(context));
    this.addWidget(new HistorySection(context));
    this.addWidget(new SandboxesSection(context));
    this.addWidget(new RuntimesSection(context));
    (this.content as AccordionPanel).setRelativeSizes(SIZES);
  }
}

/**
 * Says when what is below is not what the server tells now.
 */
class Banner extends ReactWidget {
  constructor(context: IPanelContext) {
    super();
    this._context = context;
    this.addClass('jp-VSandbox-banner');
  }

  protected override render(): React.ReactElement {
    const { store, trans } = this._context;
    return (
      <UseSignal
        signal={store.changed}
        shouldUpdate={(_, change) => change === 'connection'}
      >
        {() => {
          const { connection } = store;
          this.parent?.parent?.toggleClass(
            'jp-mod-stale',
            connection.kind !== 'live'
          );
          switch (connection.kind) {
            case 'live':
              return <div role="status" />;
            case 'connecting':
              return <div role="status">{trans.__('Asking the server…')}</div>;
            case 'lost':
              return (
                <div role="status" className="jp-mod-lost">
                  {trans.__(
                    'The server does not answer. What is below is what it told last; this goes on by itself when it is back.'
                  )}
                </div>
              );
            case 'failed':
              return (
                <div role="status" className="jp-mod-lost">
                  {trans.__('The server answers with an error:')}{' '}
                  {connection.reason}
                </div>
              );
          }
        }}
      </UseSignal>
    );
  }

  private readonly _context: IPanelContext;
}
